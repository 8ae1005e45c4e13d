/** Adds a voice: clips, their quality before they are used, a name and a statement of consent. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { ClipInput } from './clip-input.js';
import { qualityOf } from './quality.js';

export class VoiceForm {
  root;
  #frame;
  #onadded;
  #clips = [];
  #input;
  #list = element('ul', { class: 'voices-clips' });
  #quality = element('div', { 'aria-live': 'polite' });
  #name = element('input', { id: 'voices-name', name: 'name', required: '', maxlength: '100', autocomplete: 'off' });
  #consent = element('textarea', { id: 'voices-consent', name: 'consent', required: '', maxlength: '2000', rows: '2' });
  #save = element('button', { type: 'submit', class: 'voices-main' }, t('voices.save'));

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {() => Promise<void>} onadded
   */
  constructor(frame, onadded) {
    this.#frame = frame;
    this.#onadded = onadded;
    this.#consent.placeholder = t('voices.consent_example');
    const options = { id: 'voices-clips', label: t('voices.clips'), multiple: true };
    this.#input = new ClipInput(frame, options, (files) => this.#take(files));
    const form = element('form', { class: 'voices-form' },
      element('p', { class: 'voices-soft' }, t('voices.advice')), this.#input.root, this.#list, this.#quality,
      field(t('voices.name'), this.#name), field(t('voices.consent'), this.#consent), this.#save);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#add();
    });
    this.root = element('section', {}, element('h2', {}, t('voices.add')), form);
  }

  close() {
    this.#input.close();
  }

  #take(files) {
    this.#clips.push(...files);
    this.#showClips();
  }

  #showClips() {
    this.#list.replaceChildren(...this.#clips.map((clip, place) => element('li', {}, clip.name,
      button(t('voices.leave_out'), () => {
        this.#clips.splice(place, 1);
        this.#showClips();
      }, { 'aria-label': t('voices.leave_out_of', clip.name) }))));
    this.#judge();
  }

  /** Shows what the clips are like, unless others were chosen meanwhile. */
  async #judge() {
    const judged = [...this.#clips];
    this.#quality.replaceChildren();
    if (!judged.length) return;
    this.#quality.textContent = t('voices.judging');
    try {
      const response = await this.#send('voices/quality', formOf({}, judged));
      const quality = await response.json();
      if (same(judged, this.#clips)) this.#quality.replaceChildren(qualityOf(quality));
    } catch (error) {
      if (this.#frame.signal.aborted || !same(judged, this.#clips)) return;
      const fault = Fault.from(error);
      this.#quality.replaceChildren(element('p', { class: 'voices-bad' }, fault.detail || fault.message || fault.code));
    }
  }

  async #add() {
    if (!this.#clips.length) {
      this.#quality.replaceChildren(element('p', { class: 'voices-bad' }, t('voices.no_clips')));
      return;
    }
    this.#save.disabled = true;
    try {
      await this.#send('voices', formOf({ name: this.#name.value, consent: this.#consent.value }, this.#clips));
      this.#frame.announce(t('voices.added', this.#name.value));
      this.#clips = [];
      this.#name.value = this.#consent.value = '';
      this.#showClips();
      await this.#onadded();
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    } finally {
      this.#save.disabled = false;
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

function field(words, input) {
  return element('label', { class: 'voices-field' }, element('span', {}, words), input);
}
