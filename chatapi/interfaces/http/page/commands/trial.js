/** Tries the commands: says which word a recording is. */

import { element } from '../dom.js';
import { number, t } from '../texts.js';
import { bar } from './figures.js';
import { HoldButton } from './hold-button.js';

export class CommandTrial {
  root;
  #hold;
  #found = element('div', { class: 'commands-found', role: 'status' });

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {import('./requests.js').CommandRequests} requests
   */
  constructor(frame, requests) {
    const texts = { words: t('commands.try_hold'), hint: t('commands.try_hint') };
    this.#hold = new HoldButton(texts, async (recording) => this.#show(await requests.classify(recording)), (fault) => {
      if (fault.code === 'too_short') this.#found.replaceChildren(element('p', { class: 'commands-bad' }, t('commands.too_short')));
      else frame.notice(fault);
    });
    this.root = element('section', { class: 'commands-card' }, element('h2', {}, t('commands.try')), this.#hold.root, this.#found);
  }

  close() {
    this.#hold.close();
  }

  #show({ label, probability, probabilities }) {
    const name = label === 'unknown' ? t('commands.unknown') : label;
    const others = Object.entries(probabilities).slice(0, 3);
    this.#found.replaceChildren(element('p', { class: 'commands-label' }, name),
      element('p', { class: 'unseen' }, t('commands.sure', number(Math.round(100 * probability)))),
      element('ul', { class: 'commands-odds' }, ...others.map(([word, share]) => element('li', {},
        element('span', {}, word === 'unknown' ? t('commands.unknown') : word), bar(share), element('span', {}, `${number(Math.round(100 * share))}\u00a0%`)))));
  }
}
