/** Converts a recording, and plays source and result side by side. */

import { element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { ClipInput } from './clip-input.js';

export class Trial {
  root;
  #frame;
  #input;
  #voice = element('select', { id: 'voices-choice' });
  #results = element('div', { class: 'voices-results', 'aria-live': 'polite' });
  #urls = [];

  /** @param {import('../frame.js').Mount} frame */
  constructor(frame) {
    this.#frame = frame;
    const options = { id: 'voices-source', label: t('voices.source'), multiple: false };
    this.#input = new ClipInput(frame, options, ([file]) => this.#convert(file));
    const choice = element('label', { class: 'voices-field' }, element('span', {}, t('voices.voice')), this.#voice);
    this.root = element('section', {}, element('h2', {}, t('voices.try')), choice, this.#input.root, this.#results);
    this.root.hidden = true;
  }

  /** @param {{id: string, name: string}[]} voices */
  show(voices) {
    const chosen = this.#voice.value;
    this.#voice.replaceChildren(...voices.map(({ id, name }) => element('option', { value: id }, name)));
    if (voices.some(({ id }) => id === chosen)) this.#voice.value = chosen;
    this.root.hidden = !voices.length;
  }

  close() {
    this.#input.close();
    this.#forget();
  }

  async #convert(file) {
    this.#forget();
    const source = this.#sound(t('voices.before'), file, 'voices-before');
    this.#results.replaceChildren(source, element('p', {}, t('voices.converting')));
    const form = new FormData();
    form.append('voice', this.#voice.value);
    form.append('source', file, file.name);
    try {
      const response = await this.#frame.api.request('conversions', { method: 'POST', body: form, signal: this.#frame.signal });
      if (response.status === 202) {
        this.#results.replaceChildren(source, element('p', {}, t('voices.long')));
        return;
      }
      this.#results.replaceChildren(source, this.#sound(t('voices.after'), await response.blob(), 'voices-after'));
    } catch (error) {
      if (this.#frame.signal.aborted) return;
      this.#results.replaceChildren(source);
      this.#frame.notice(Fault.from(error));
    }
  }

  #sound(words, blob, name) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    const player = element('audio', { class: name, controls: '', src: url, 'aria-label': words });
    return element('figure', {}, element('figcaption', {}, words), player);
  }

  #forget() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    this.#results.replaceChildren();
  }
}
