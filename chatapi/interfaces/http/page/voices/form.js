/** Adds a voice: clips, their quality before they are used, a name and a statement of consent. */

import { button, element, icon } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { ClipInput } from './clip-input.js';
import { qualityOf, rejectionOf } from './quality.js';

export class VoiceForm {
  root;
  #frame;
  #onadded;
  #clips = [];
  #urls = new Map();
  #input;
  #list = element('ul', { class: 'voices-clips' });
  #quality = element('div', { 'aria-live': 'polite' });
  #name = element('input', { id: 'voices-name', name: 'name', required: '', maxlength: '100', autocomplete: 'off' });
  #consent = element('textarea', { id: 'voices-consent', name: 'consent', required: '', maxlength: '2000', rows: '2' });
  #save = element('button', { type: 'submit', class: 'voices-main filled' }, t('voices.save'));

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {() => Promise<void>} onadded
   */
  constructor(frame, onadded) {
    this.#frame = frame;
    this.#onadded = onadded;
    this.#consent.placeholder = t('voices.consent_example');
    const options = { id: 'voices-clips', label: t('voices.clips'), more: t('voices.clips_more'), multiple: true };
    this.#input = new ClipInput(frame, options, (files) => this.#take(files));
    const passage = element('details', { class: 'voices-passage' }, element('summary', {}, t('voices.passage')), element('p', {}, t('voices.passage_text')));
    const form = element('form', { class: 'voices-form' },
      element('p', { class: 'voices-soft' }, t('voices.advice')), this.#input.root, passage, this.#list, this.#quality,
      field(t('voices.name'), '', this.#name), field(t('voices.consent'), t('voices.consent_more'), this.#consent), this.#save);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#add();
    });
    this.root = element('section', {}, element('h2', {}, t('voices.add')), form);
  }

  close() {
    this.#input.close();
    this.#clips = [];
    this.#release();
  }

  #take(files) {
    this.#clips.push(...files);
    this.#showClips();
  }

  #showClips() {
    this.#release();
    const kept = new Map([...this.#list.children].map((row) => [row.clip, row]));
    this.#list.replaceChildren(...this.#clips.map((clip) => kept.get(clip) ?? this.#row(clip)));
    this.#judge();
  }

  #row(clip) {
    const url = URL.createObjectURL(clip);
    this.#urls.set(clip, url);
    const label = t('voices.leave_out_of', clip.name);
    const leave = button('', () => {
      this.#clips = this.#clips.filter((each) => each !== clip);
      this.#showClips();
    }, { class: 'round', 'aria-label': label, title: label });
    leave.append(icon('close'));
    const player = element('audio', { class: 'voices-wide', controls: '', preload: 'metadata', src: url, 'aria-label': clip.name });
    const row = element('li', {}, element('strong', {}, clip.name), leave, player);
    row.clip = clip;
    return row;
  }

  /** Gives back the memory of clips that were left out. */
  #release() {
    for (const [clip, url] of this.#urls) {
      if (this.#clips.includes(clip)) continue;
      URL.revokeObjectURL(url);
      this.#urls.delete(clip);
    }
  }

  /** Shows what the clips are like, unless others were chosen meanwhile. */
  async #judge() {
    const judged = [...this.#clips];
    this.#quality.replaceChildren();
    if (!judged.length) return;
    this.#quality.replaceChildren(element('div', { class: 'voices-wait' }, element('span', {}, t('voices.judging')),
      element('div', { class: 'voices-indeterminate' })));
    try {
      const response = await this.#send('voices/quality', formOf({}, judged));
      const quality = await response.json();
      if (same(judged, this.#clips)) this.#quality.replaceChildren(qualityOf(quality));
    } catch (error) {
      if (this.#frame.signal.aborted || !same(judged, this.#clips)) return;
      this.#quality.replaceChildren(rejectionOf(Fault.from(error)));
    }
  }

  async #add() {
    if (!this.#clips.length) {
      this.#quality.replaceChildren(rejectionOf(new Fault('no_clips')));
      return;
    }
    this.#save.disabled = true;
    this.#save.textContent = t('voices.saving');
    try {
      await this.#send('voices', formOf({ name: this.#name.value, consent: this.#consent.value }, this.#clips));
      this.#frame.clearNotice();
      this.#frame.announce(t('voices.added', this.#name.value));
      this.#clips = [];
      this.#name.value = this.#consent.value = '';
      this.#showClips();
      await this.#onadded();
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#quality.replaceChildren(rejectionOf(Fault.from(error)));
    } finally {
      this.#save.disabled = false;
      this.#save.textContent = t('voices.save');
    }
  }

  #send(path, body) {
    return this.#frame.api.request(path, { method: 'POST', body, signal: this.#frame.signal });
  }
}

function formOf(texts, clips) {
  const form = new FormData();
  for (const [name, value] of Object.entries(texts)) form.append(name, value);
  for (const clip of clips) form.append('clips', clip, clip.name);
  return form;
}

function same(one, other) {
  return one.length === other.length && one.every((each, place) => each === other[place]);
}

/** A labelled field; `more` explains it. */
export function field(words, more, input) {
  const label = element('span', {}, words);
  const help = more ? [element('small', {}, more)] : [];
  return element('label', { class: 'voices-field' }, label, ...help, input);
}
