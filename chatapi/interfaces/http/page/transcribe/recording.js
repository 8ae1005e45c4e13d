/** One recording: its progress while it runs, then its transcript with playback, speakers, search and downloads. */

import { button, element, icon, named } from '../dom.js';
import { clock } from '../durations.js';
import { Fault, reasonOf } from '../faults.js';
import { nameOfLanguage, t } from '../texts.js';
import { AudioBar } from './audio-bar.js';
import { renameSpeaker } from './speaker-dialog.js';
import { FORMATS, failureOf, hasEnded, stateOf } from './job.js';
import { Search } from './search.js';
import { Transcript } from './transcript.js';

/** Delay before the events are followed again after the connection was lost, in seconds. */
const AGAIN = 3;

export class Recording {
  #frame;
  #api;
  #id;
  #job = null;
  #audio = null;
  #transcript = null;
  #head = element('header', { class: 'recording-head' });
  #body = element('div', { class: 'recording-body' });
  #scroller = element('div', { class: 'scroller', tabindex: '0', role: 'region', 'aria-label': t('transcribe.transcript') });
  #dock = element('div', { class: 'audio-dock', hidden: '' });

  /** @param {HTMLElement} root  @param {import('../frame.js').Mount} frame  @param {string} id  that of the job */
  constructor(root, frame, id) {
    this.#frame = frame;
    this.#api = frame.api;
    this.#id = id;
    this.#scroller.append(element('div', { class: 'column' }, this.#head, this.#body));
    root.replaceChildren(this.#scroller, this.#dock);
    const back = element('a', { class: 'back', href: '#/transcribe' }, icon('back'), t('transcribe.all'));
    this.#head.append(back);
    frame.onload(() => this.#load());
    document.addEventListener('keydown', (event) => this.#key(event), { signal: frame.signal });
  }

  close() {
    this.#audio?.close();
    this.#transcript?.close();
  }

  async #load() {
    if (this.#transcript || this.#frame.signal.aborted) return;
    this.#job = await this.#api.get(`jobs/${encodeURIComponent(this.#id)}`);
    this.#frame.setTitle(this.#job.name);
    if (this.#job.state === 'done') await this.#showTranscript();
    else this.#showProgress();
  }

  // While it runs

  #showProgress() {
    const state = element('p', { class: 'meta', role: 'status' });
    const bar = element('progress', { max: '1', 'aria-label': t('transcribe.progress_of', this.#job.name) });
    const why = element('p', { class: 'why' });
    const text = element('p', { class: 'partial-text' });
    const retry = button(t('transcribe.try_again'), async () => {
      await this.#api.send('POST', `jobs/${this.#id}/retry`);
      await this.#load();
    }, { class: 'plain' });
    this.#body.replaceChildren(state, bar, why, retry, text);
    const show = (job) => {
      this.#job = { ...this.#job, ...job };
      state.textContent = stateOf(this.#job);
      bar.value = this.#job.progress;
      bar.hidden = hasEnded(this.#job);
      why.textContent = failureOf(this.#job);
      retry.hidden = !['failed', 'cancelled'].includes(this.#job.state);
      if (job.text != null) text.textContent = job.text;
    };
    show(this.#job);
    if (!hasEnded(this.#job)) this.#follow(show);
  }

  /** Follows the events of the job until it has ended; the text is not part of them. */
  async #follow(show) {
    const { signal } = this.#frame;
    while (!signal.aborted) {
      try {
        for await (const { name, data } of this.#api.events(`jobs/${this.#id}/events`, signal)) {
          if (name === 'error') throw Fault.fromProblem(data);
          if (name === 'end') return await this.#ended();
          const { state, progress, seconds_left: left } = data;
          show({ progress, seconds_left: left, ...(name === 'state' && { state, wanted: '', failure: data.code ? { code: data.code, message: data.message } : null }) });
          if (name !== 'state') show(await this.#api.get(`jobs/${this.#id}`));
        }
      } catch (error) {
        if (signal.aborted) return undefined;
        const { code } = Fault.from(error);
        if (code === 'unauthorized' || code === 'unknown_job') throw error;
      }
      await new Promise((resolve) => { setTimeout(resolve, 1000 * AGAIN); });
    }
    return undefined;
  }

  async #ended() {
    await this.#load();
    if (this.#job.state === 'done') this.#frame.announce(t('transcribe.finished', this.#job.name));
  }

  // When it is done

  async #showTranscript() {
    const document = await this.#api.get(`jobs/${this.#id}/result?format=json`);
    if (this.#frame.signal.aborted) return;
    this.#transcript = new Transcript(document, {
      onseek: (seconds) => this.#audio?.seek(seconds, true),
      onspeaker: (label, name) => this.#rename(label, name),
      scroller: this.#scroller,
    });
    const search = new Search(this.#transcript);
    this.#body.replaceChildren(this.#meta(document), ...this.#notes(document), element('div', { class: 'tools' }, search.element, this.#downloads()), this.#transcript.element);
    if (this.#job.audio) await this.#showAudio(document.duration);
  }

  #meta({ duration, language, task }) {
    const parts = [clock(duration), language && nameOfLanguage(language), task === 'translate' && t('transcribe.translated')];
    return element('p', { class: 'meta' }, parts.filter(Boolean).join(' · '));
  }

  /** What the user has to know of the result: what was left out, and why there are no speakers or no audio. */
  #notes({ text, audio_skipped: skipped, speakers_error: speakers }) {
    const notes = [];
    if (!text) notes.push(t('transcribe.no_text'));
    if (skipped) notes.push(t('transcribe.skipped', skipped));
    if (speakers) notes.push(t('transcribe.no_speakers', reasonOf(speakers)));
    if (!this.#job.audio) notes.push(t('transcribe.no_audio'));
    return notes.map((words) => element('p', { class: 'note' }, icon('warning'), words));
  }

  #downloads() {
    const status = element('span', { class: 'unseen', role: 'status' });
    const copy = button('', () => this.#copy(copy, status), { class: 'plain', id: 'copy' });
    copy.append(icon('copy'), element('span', {}, t('transcribe.copy')));
    const links = FORMATS.map((format) => button(format, () => this.#download(format), { class: 'plain format', 'data-format': format, ...named(format, t('transcribe.download', t(`transcribe.formats.${format}`))) }));
    return element('div', { class: 'downloads', role: 'group', 'aria-label': t('transcribe.downloads') }, copy, status, ...links);
  }

  async #file(format) {
    return (await this.#api.request(`jobs/${this.#id}/result?format=${format}`)).blob();
  }

  async #download(format) {
    const link = element('a', { href: URL.createObjectURL(await this.#file(format)), download: `${this.#job.name.replace(/\.[^.]*$/, '')}.${format}` });
    document.body.append(link);
    link.click();
    link.remove();
    // The browser has to have opened it.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  async #copy(pressed, status) {
    await copyText(await (await this.#file('txt')).text());
    const words = pressed.querySelector('span');
    words.textContent = status.textContent = t('transcribe.copied');
    setTimeout(() => { words.textContent = t('transcribe.copy'); }, 2000);
  }

  async #showAudio(duration) {
    this.#audio = new AudioBar(duration, () => this.#audioAddress(), (seconds, playing) => this.#transcript.show(seconds, playing));
    this.#dock.replaceChildren(this.#audio.element);
    this.#dock.hidden = false;
    await this.#audio.load();
  }

  /** Where the audio can be read. An audio element sends no key, so a key needs a link, which expires after some minutes. */
  async #audioAddress() {
    const path = `jobs/${this.#id}/audio`;
    if (!this.#api.hasKey) return this.#api.url(path).href;
    const { url } = await this.#api.send('POST', `${path}-link`);
    // The server may be below a path of a proxy.
    return this.#api.url(url.replace(/^\//, '')).href;
  }

  async #rename(label, name) {
    const wanted = await renameSpeaker(label, name, this.#transcript.speakers);
    if (wanted === null || wanted === name) return;
    const { names } = await this.#api.send('PATCH', `jobs/${this.#id}/speakers`, { names: { [label]: wanted } });
    this.#transcript.rename(names);
    this.#frame.announce(t('transcribe.renamed', names[label] ?? label));
  }

  #key(event) {
    if (!this.#audio || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const control = event.target.closest?.('input, textarea, select, button, a, summary');
    if (event.key === ' ' && !control) this.#audio.toggle();
    else if (event.key === 'ArrowLeft' && !event.target.closest?.('input, textarea, select')) this.#audio.skip(-5);
    else if (event.key === 'ArrowRight' && !event.target.closest?.('input, textarea, select')) this.#audio.skip(5);
    else return;
    event.preventDefault();
  }
}

async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Browsers offer the clipboard only to secure addresses.
  const field = element('textarea', { class: 'unseen' });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}
