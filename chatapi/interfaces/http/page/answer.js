/** One answer as it comes: its words, its sound, where the time went, and what went wrong. */

import { button, element, icon } from './dom.js';
import { explained } from './faults.js';
import { Highlighter, located, wordsAt } from './highlight.js';
import { PlayButton } from './playbutton.js';
import { timeline } from './timeline.js';

export class Answer {
  #text = document.createTextNode('');
  #paragraph = element('p', { class: 'text' }, this.#text);
  #phase = element('p', { class: 'phase' });
  #foot = element('div', { class: 'foot' });
  #player;
  #pieces = [];
  #highlighter = new Highlighter();
  #ranges = new Map();
  #spokenTo = 0;
  #onheard;
  /** The playback that sounds while the answer is still made; null: none. */
  playback = null;

  /**
   * @param {import('./player.js').Player} player
   * @param {(words: Range|null) => void} onheard  told which words are heard now
   */
  constructor(player, onheard) {
    this.#player = player;
    this.#onheard = onheard;
    const who = element('span', { class: 'unseen' }, 'Answer: ');
    const face = element('span', { class: 'face', 'aria-hidden': 'true' }, ...Array.from({ length: 4 }, () => element('i')));
    this.element = element('li', { class: 'message answer', 'aria-busy': 'true' }, face, who, this.#phase, this.#paragraph, this.#foot);
    this.#paragraph.hidden = true;
  }

  get text() {
    return this.#text.data;
  }

  /** Whether anything of it was shown. */
  get begun() {
    return this.text !== '';
  }

  /** What the box is doing while there is nothing to read yet. */
  phase(words) {
    this.#phase.replaceChildren(element('span', { class: 'dots', 'aria-hidden': 'true' }, element('i'), element('i'), element('i')), words);
    this.#phase.hidden = this.begun;
  }

  /** The next words. */
  add(text) {
    this.#text.appendData(text);
    this.#phase.hidden = true;
    this.#paragraph.hidden = false;
  }

  /** The next stretch of sound, so that it can be played again and followed in the text. */
  sound(piece) {
    const last = this.#pieces.at(-1);
    const range = last?.text === piece.text ? this.#ranges.get(last) : located(this.text, piece.text, this.#spokenTo);
    this.#spokenTo = range[1];
    this.#ranges.set(piece, range);
    this.#pieces.push(piece);
    const seconds = this.#pieces.reduce((sum, { samples, rate }) => sum + samples.length / rate, 0);
    this.element.dataset.seconds = seconds.toFixed(3);
  }

  /** Which stretch is heard now; null: none. */
  heard(piece) {
    this.element.classList.toggle('speaking', piece !== null);
    this.#player.onspeaking(piece !== null);
    const words = piece && wordsAt(this.#text, this.#ranges.get(piece));
    this.#highlighter.show(words);
    this.#onheard(words);
  }

  restored(text) {
    this.add(text);
    this.#over();
  }

  /** @param {object} end  the `end` event */
  ended(end, here) {
    this.#over();
    this.#footer(timeline(end, here));
    if (end.finish_reason === 'length') this.#remark('Cut short: the answer reached its longest length.');
  }

  /** The user stopped it. */
  stopped() {
    this.#over();
    this.#footer();
    this.#remark(this.begun ? 'Stopped. The box does not remember this answer.' : 'Stopped.');
  }

  /** Whether its words are heard now, in a live conversation. */
  speaking(on) {
    this.element.classList.toggle('speaking', on);
  }

  /** Somebody spoke against it, or the connection was lost: what is shown is what was heard. */
  interrupted(end, here, lost) {
    this.#over();
    this.element.dataset.interrupted = '';
    this.#footer(...(end ? [timeline(end, here)] : []));
    if (lost) this.#remark('The connection was lost here.');
    else this.#remark(this.begun ? 'Interrupted. The box remembers what you heard of it.' : 'Interrupted before it was heard.');
  }

  /** Waiting for the box: what for, and until when. */
  waiting(fault, seconds) {
    const { title } = explained(fault);
    this.phase(`${title}; trying again in ${seconds} s`);
  }

  /**
   * Say what went wrong, here where the answer would be.
   * @param {import('./faults.js').Fault} fault
   * @param {{words: string, pressed: () => void}[]} ways  what can be done about it
   */
  failed(fault, ways) {
    this.#over();
    if (this.#pieces.length) this.#footer();
    this.element.append(card(fault, ways));
  }

  #over() {
    this.element.removeAttribute('aria-busy');
    this.#phase.hidden = true;
  }

  #footer(...parts) {
    if (this.#pieces.length) {
      const play = new PlayButton(this.#player, () => this.#pieces, 'the answer', (piece) => this.heard(piece));
      this.#foot.append(play.element);
      if (this.playback?.playing) play.follow(this.playback);
    }
    this.#foot.append(...parts);
  }

  #remark(words) {
    this.element.append(element('p', { class: 'aside' }, words));
  }
}

/**
 * A fault as people read it.
 * @param {import('./faults.js').Fault} fault
 * @param {{words: string, pressed: () => void}[]} ways
 */
export function card(fault, ways) {
  const { title, advice, small } = explained(fault);
  const words = element('div', {}, element('strong', {}, title), element('p', {}, advice));
  if (small) words.append(element('p', { class: 'small' }, small));
  if (ways.length) {
    words.append(element('p', { class: 'ways' }, ...ways.map((way) => button(way.words, way.pressed, { class: 'plain' }))));
  }
  return element('div', { class: 'fault', role: 'alert', 'data-code': fault.code }, icon('warning'), words);
}
