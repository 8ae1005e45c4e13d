/** One detection: its picture and sound, and its review. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { number, t } from '../texts.js';
import { moment } from './times.js';

/** Verb of a button -> state of the review. */
const VERDICTS = { confirm: 'positive', reject: 'negative', unsure: 'unknown' };

export class DetectionCard {
  root;
  #frame;
  #onmuted;
  #detection;
  #picture;
  #cursor = element('i', { class: 'streams-cursor', hidden: '' });
  #play;
  #verdicts;
  #mute;
  #reviewed = element('span', { class: 'streams-soft' });
  #tags;
  #comments;
  #audio = null;
  #url = '';
  #seen;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {() => void} onmuted
   */
  constructor(frame, detection, onmuted) {
    this.#frame = frame;
    this.#onmuted = onmuted;
    this.#detection = detection;
    const { id, name, confidence, mute, start } = detection;
    const head = element('div', { class: 'streams-head' }, element('h3', {}, detection.place.replace(/^rpi_/, '').replaceAll('_', ' ')),
      element('time', { datetime: new Date(start * 1000).toISOString() }, moment(start)),
      element('strong', { class: 'streams-confidence' }, t('streams.confidence', number(confidence))));
    this.#verdicts = Object.keys(VERDICTS).map((verb) => button(t(`streams.${verb}`), () => this.#decide(VERDICTS[verb]),
      { class: `plain streams-${verb}`, 'aria-label': t(`streams.${verb}_of`, name), 'data-verb': verb }));
    this.#mute = button(t('streams.mute'), () => this.#muteSound(), { class: 'plain streams-mute', hidden: '', 'aria-label': t('streams.mute_of', name) });
    this.#tags = element('input', { maxlength: '500', autocomplete: 'off', name: 'tags' });
    this.#comments = element('input', { maxlength: '2000', autocomplete: 'off', name: 'comments' });
    for (const each of [this.#tags, this.#comments]) each.addEventListener('change', () => this.#save());
    const fields = element('div', { class: 'streams-fields' }, field(t('streams.tags'), this.#tags), field(t('streams.comments'), this.#comments));
    const sound = mute ? [] : [this.#stage(), this.#player()];
    this.root = element('li', { class: 'streams-card', 'data-id': id }, head, ...sound,
      element('div', { class: 'streams-verdicts' }, ...this.#verdicts),
      element('div', { class: 'streams-buttons' }, this.#mute, this.#reviewed), fields);
  }

  /** Shows a detection's review; fields that are being edited stay. */
  show(detection) {
    this.#detection = detection;
    const { state, tags, comments, moderator, moderated } = detection;
    this.root.dataset.state = state;
    for (const each of this.#verdicts) each.setAttribute('aria-pressed', String(VERDICTS[each.dataset.verb] === state));
    this.#mute.hidden = state !== 'negative' || Boolean(detection.mute);
    this.#reviewed.textContent = moderated ? t('streams.reviewed_by', moderator, moment(moderated)) : '';
    if (document.activeElement !== this.#tags) this.#tags.value = tags.join(', ');
    if (document.activeElement !== this.#comments) this.#comments.value = comments;
  }

  close() {
    this.#seen?.disconnect();
    this.#audio?.pause();
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = '';
  }

  #stage() {
    this.#picture = element('canvas', {
      class: 'streams-picture', width: '1280', height: '480', role: 'img', 'aria-label': t('streams.picture_of', this.#detection.name),
    });
    const stage = element('div', { class: 'streams-stage' }, this.#picture, this.#cursor);
    stage.addEventListener('click', (event) => {
      const { left, width } = stage.getBoundingClientRect();
      this.#listen((event.clientX - left) / width);
    });
    // Pictures are fetched when they come into view: a list may be long.
    this.#seen = new IntersectionObserver((entries) => {
      if (!entries.some((each) => each.isIntersecting)) return;
      this.#seen.disconnect();
      this.#draw();
    }, { rootMargin: '300px' });
    this.#seen.observe(stage);
    return stage;
  }

  #player() {
    const { name } = this.#detection;
    this.#play = button(t('streams.play'), () => this.#toggle(), { class: 'filled streams-play', 'aria-label': t('streams.play_of', name) });
    const download = button(t('streams.download'), () => this.#download(), { class: 'plain', 'aria-label': t('streams.download_of', name) });
    return element('div', { class: 'streams-buttons' }, this.#play, download);
  }

  async #draw() {
    try {
      const response = await this.#get('spectrogram');
      const picture = await createImageBitmap(await response.blob());
      this.#picture.getContext('2d').drawImage(picture, 0, 0);
      this.#picture.dataset.drawn = 'true';
    } catch {
      // The picture may be gone from its store; its sound and its review are still of use.
    }
  }

  #toggle() {
    if (this.#audio && !this.#audio.paused) this.#audio.pause();
    else this.#listen(null);
  }

  /** Plays the clip; `part`: from this part of it, null: on. */
  async #listen(part) {
    try {
      if (!this.#audio) await this.#open();
      if (part !== null) this.#audio.currentTime = part * this.#audio.duration;
      else if (this.#audio.ended) this.#audio.currentTime = 0;
      await this.#audio.play();
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }

  async #open() {
    await this.#load();
    const audio = element('audio', { src: this.#url });
    await new Promise((resolve, reject) => {
      audio.addEventListener('loadedmetadata', resolve, { once: true });
      audio.addEventListener('error', () => reject(new Fault('page_fault', { detail: audio.error?.message ?? '' })), { once: true });
    });
    for (const each of ['play', 'pause', 'ended']) audio.addEventListener(each, () => this.#showPlaying());
    audio.addEventListener('timeupdate', () => this.#showPlaying());
    this.#audio = audio;
  }

  async #load() {
    if (!this.#url) this.#url = URL.createObjectURL(await (await this.#get('audio')).blob());
  }

  #showPlaying() {
    const plays = !this.#audio.paused;
    const { name } = this.#detection;
    this.#play.textContent = t(plays ? 'streams.stop' : 'streams.play');
    this.#play.setAttribute('aria-label', t(plays ? 'streams.stop_of' : 'streams.play_of', name));
    this.#cursor.hidden = !plays && !this.#audio.currentTime;
    this.#cursor.style.setProperty('left', `${(100 * this.#audio.currentTime) / this.#audio.duration}%`);
    this.root.dataset.played = String(this.#audio.currentTime);
  }

  async #download() {
    try {
      await this.#load();
      element('a', { href: this.#url, download: `${this.#detection.name}.wav` }).click();
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }

  /** The verdict that is given already is taken back. */
  async #decide(state) {
    const wanted = this.#detection.state === state ? 'unreviewed' : state;
    if (await this.#patch({ state: wanted })) this.#frame.announce(t(`streams.marked.${wanted}`));
  }

  async #save() {
    const tags = this.#tags.value.split(/[,;]/).map((each) => each.trim()).filter(Boolean);
    if (await this.#patch({ tags, comments: this.#comments.value })) this.#frame.announce(t('streams.saved'));
  }

  async #patch(change) {
    try {
      this.show(await this.#frame.api.send('PATCH', `detections/${this.#detection.id}`, change));
      return true;
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
      return false;
    }
  }

  async #muteSound() {
    try {
      await this.#frame.api.send('POST', 'mutes', { detection: this.#detection.id });
      this.#frame.announce(t('streams.muted'));
      this.#onmuted();
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }

  #get(part) {
    return this.#frame.api.request(`detections/${this.#detection.id}/${part}`, { signal: this.#frame.signal });
  }
}

function field(words, input) {
  return element('label', { class: 'streams-field' }, element('span', {}, words), input);
}
