/** The muted kinds of sound. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { shortMoment } from './times.js';

export class Mutes {
  root;
  #frame;
  #list = element('ul', { class: 'streams-mutes' });

  /** @param {import('../frame.js').Mount} frame */
  constructor(frame) {
    this.#frame = frame;
    this.root = element('section', { hidden: '' }, element('h2', {}, t('streams.mutes')),
      element('p', { class: 'streams-soft' }, t('streams.mutes_advice')), this.#list);
  }

  async load() {
    const { mutes } = await (await this.#frame.api.request('mutes', { signal: this.#frame.signal })).json();
    this.#list.replaceChildren(...mutes.map((each) => this.#row(each)));
    this.root.hidden = !mutes.length;
  }

  #row(mute) {
    const about = [mute.place, t('streams.mute_counts', mute.muted), mute.last ? shortMoment(mute.last) : ''].filter(Boolean).join(' · ');
    const remove = button(t('streams.unmute'), () => this.#remove(mute), { class: 'plain', 'aria-label': t('streams.unmute_of', mute.name) });
    return element('li', {}, element('div', {}, element('strong', {}, mute.name), element('p', { class: 'streams-soft' }, about)), remove);
  }

  async #remove(mute) {
    try {
      await this.#frame.api.delete(`mutes/${encodeURIComponent(mute.id)}`);
      this.#frame.announce(t('streams.unmuted'));
      await this.load();
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }
}
