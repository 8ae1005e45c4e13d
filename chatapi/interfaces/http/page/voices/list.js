/** The stored voices. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { qualityOf } from './quality.js';

export class VoiceList {
  root;
  #frame;
  #onvoices;
  #list = element('ul', { class: 'voices-list' });
  #empty = element('p', { class: 'voices-soft' }, t('voices.none'));

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {(voices: object[]) => void} onvoices
   */
  constructor(frame, onvoices) {
    this.#frame = frame;
    this.#onvoices = onvoices;
    this.root = element('section', {}, element('h2', {}, t('voices.stored')), this.#empty, this.#list);
  }

  async refresh() {
    const { voices } = await (await this.#frame.api.request('voices', { signal: this.#frame.signal })).json();
    if (this.#frame.signal.aborted) return;
    this.#empty.hidden = voices.length > 0;
    this.#list.replaceChildren(...voices.map((each) => this.#row(each)));
    this.#onvoices(voices);
  }

  #row(voice) {
    const remove = button(t('voices.delete'), () => this.#remove(voice), { 'aria-label': t('voices.delete_of', voice.name) });
    return element('li', {}, element('strong', {}, voice.name), qualityOf(voice.quality), remove);
  }

  async #remove(voice) {
    if (!window.confirm(t('voices.delete_question', voice.name))) return;
    try {
      await this.#frame.api.delete(`voices/${encodeURIComponent(voice.id)}`);
      await this.refresh();
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }
}
