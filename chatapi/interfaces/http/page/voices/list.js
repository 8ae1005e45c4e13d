/** The stored voices. */

import { button, element, icon } from '../dom.js';
import { Fault } from '../faults.js';
import { language, number, t } from '../texts.js';
import { warningsOf } from './quality.js';

export class VoiceList {
  root;
  #frame;
  #onvoices;
  #list = element('ul', { class: 'voices-list' });
  #empty = element('p', { class: 'voices-soft', hidden: '' }, t('voices.none'));

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
    const label = t('voices.delete_of', voice.name);
    const remove = button('', () => this.#remove(voice), { class: 'round', 'aria-label': label, title: label });
    remove.append(icon('delete'));
    const added = new Date(1000 * voice.created).toLocaleDateString(language, { dateStyle: 'medium' });
    const about = t('voices.about', number(voice.quality.speech_seconds, 0), voice.clips.length, added);
    const row = element('li', {}, element('strong', {}, voice.name), remove,
      element('p', { class: 'voices-meta voices-wide' }, about),
      element('p', { class: 'voices-meta voices-wide' }, t('voices.consented', voice.consent)));
    if (voice.quality.warnings.length) row.append(element('div', { class: 'voices-wide' }, warningsOf(voice.quality, true)));
    return row;
  }

  async #remove(voice) {
    if (!window.confirm(t('voices.delete_question', voice.name))) return;
    try {
      await this.#frame.api.delete(`voices/${encodeURIComponent(voice.id)}`);
      await this.refresh();
      this.#frame.announce(t('voices.deleted', voice.name));
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }
}
