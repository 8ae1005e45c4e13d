/** The view of one streamed answer: its text, its audio, its timings and its errors. */

import { button, element, icon, showIcon } from './dom.js';
import { messageOf } from './faults.js';
import { Highlighter, locate, wordsAt } from './highlight.js';
import { PlayButton } from './playbutton.js';
import { t } from './texts.js';
import { timeline } from './timeline.js';

/** How long the button shows that the text was copied, in milliseconds. */
const COPIED_MS = 1500;

export class Answer {
  #text = document.createTextNode('');
  #paragraph = element('p', { class: 'text' }, this.#text);
  #phase = element('p', { class: 'phase' });
  #foot = element('div', { class: 'foot' });
  #player;
  #chunks = [];
  #highlighter = new Highlighter();
  #ranges = new Map();
  #searchFrom = 0;
  #onspoken;
  #oncontinue;
  /** Synthesizes the text again; null: the audio arrived with it. */
  #synthesize = null;
  /** The playback that runs while the answer is streamed; null when there is none. */
  playback = null;

  /**
   * @param {import('./player.js').Player} player
   * @param {(words: Range|null) => void} onspoken  called with the text that is spoken now
   * @param {() => void} oncontinue  asks for the rest of an answer that was cut short
   */
  constructor(player, onspoken, oncontinue) {
    this.#player = player;
    this.#onspoken = onspoken;
    this.#oncontinue = oncontinue;
    const who = element('span', { class: 'unseen' }, t('talk.answer'));
    const face = element('span', { class: 'face', 'aria-hidden': 'true' }, ...Array.from({ length: 4 }, () => element('i')));
    this.element = element('li', { class: 'message answer', 'aria-busy': 'true' }, face, who, this.#phase, this.#paragraph, this.#foot);
    this.#paragraph.hidden = true;
  }

  get text() {
    return this.#text.data;
  }

  /** Whether any text is shown. */
  get started() {
    return this.text !== '';
  }

  /** Shows what the box does before there is text. */
  phase(words) {
    this.#phase.replaceChildren(element('span', { class: 'dots', 'aria-hidden': 'true' }, element('i'), element('i'), element('i')), words);
    this.#phase.hidden = this.started;
  }

  /** Appends text. */
  add(text) {
    this.#text.appendData(text);
    this.#phase.hidden = true;
    this.#paragraph.hidden = false;
  }

  /** Adds a chunk of audio, so that it can be replayed and highlighted in the text. */
  addAudio(chunk) {
    const last = this.#chunks.at(-1);
    const range = last?.text === chunk.text ? this.#ranges.get(last) : locate(this.text, chunk.text, this.#searchFrom);
    this.#searchFrom = range[1];
    this.#ranges.set(chunk, range);
    this.#chunks.push(chunk);
    const seconds = this.#chunks.reduce((sum, { samples, rate }) => sum + samples.length / rate, 0);
    this.element.dataset.seconds = seconds.toFixed(3);
  }

  /** Highlights the text of the chunk that plays now; null for none. */
  showPlaying(chunk) {
    this.element.classList.toggle('speaking', chunk !== null);
    this.#player.onspeaking(chunk !== null);
    const words = chunk && wordsAt(this.#text, this.#ranges.get(chunk));
    this.#highlighter.show(words);
    this.#onspoken(words);
  }

  /**
   * Shows a stored answer, whose audio is not stored.
   * @param {() => Promise<import('./player.js').Chunk[]>} synthesize
   */
  restored(text, synthesize) {
    this.#synthesize = synthesize;
    this.add(text);
    this.#complete();
    this.#footer();
  }

  /** @param {object} end  the `end` event */
  ended(end, here) {
    this.#complete();
    this.#footer(timeline(end, here));
    if (end.finish_reason !== 'length') return;
    this.#remark(t('talk.truncated'));
    const proceed = button(t('talk.continue'), () => {
      proceed.remove();
      this.#oncontinue();
    }, { class: 'plain continue' });
    this.element.append(proceed);
  }

  /** Shows that the user stopped the answer. */
  stopped() {
    this.#complete();
    this.#footer();
    this.#remark(t(this.started ? 'talk.stopped_answer' : 'talk.stopped'));
  }

  /** Shows whether the answer plays now, in a live conversation. */
  speaking(on) {
    this.element.classList.toggle('speaking', on);
  }

  /** Shows a barge-in or a lost connection; the shown text is the text that was played. */
  interrupted(end, here, lost) {
    this.#complete();
    this.element.dataset.interrupted = '';
    this.#footer(...(end ? [timeline(end, here)] : []));
    if (lost) this.#remark(t('talk.lost_here'));
    else this.#remark(t(this.started ? 'talk.interrupted' : 'talk.interrupted_before'));
  }

  /** Shows why and how long the page waits before a retry. */
  waiting(fault, seconds) {
    const { title } = messageOf(fault);
    this.phase(t('fault.waiting', title, seconds));
  }

  /**
   * Shows an error in place of the answer.
   * @param {import('./faults.js').Fault} fault
   * @param {{words: string, pressed: () => void}[]} ways  buttons with remedies
   */
  failed(fault, ways) {
    this.#complete();
    if (this.#chunks.length) this.#footer();
    this.element.append(card(fault, ways));
  }

  #complete() {
    this.element.removeAttribute('aria-busy');
    this.#phase.hidden = true;
  }

  #footer(...parts) {
    if (this.#chunks.length || this.#synthesize) {
      const play = new PlayButton(this.#player, () => this.#audio(), 'answer', (chunk) => this.showPlaying(chunk));
      this.#foot.append(play.element);
      if (this.playback?.playing) play.follow(this.playback);
    }
    this.#foot.append(...parts);
    // Browsers have it on pages of this machine and over HTTPS only.
    if (this.started && navigator.clipboard) this.#foot.append(this.#copyButton());
  }

  async #audio() {
    if (!this.#chunks.length) for (const chunk of await this.#synthesize()) this.addAudio(chunk);
    return this.#chunks;
  }

  #copyButton() {
    const copy = button('', async () => {
      await navigator.clipboard.writeText(this.text);
      showIcon(copy, 'done');
      setTimeout(() => showIcon(copy, 'copy'), COPIED_MS);
    }, { class: 'round copy', 'aria-label': t('talk.copy'), title: t('talk.copy') });
    copy.append(icon('copy'));
    return copy;
  }

  #remark(words) {
    this.element.append(element('p', { class: 'aside' }, words));
  }
}

/**
 * The view of a fault.
 * @param {import('./faults.js').Fault} fault
 * @param {{words: string, pressed: () => void}[]} ways
 */
export function card(fault, ways) {
  const { title, advice, small } = messageOf(fault);
  const words = element('div', {}, element('strong', {}, title), element('p', {}, advice));
  if (small) words.append(element('p', { class: 'small' }, small));
  if (ways.length) {
    words.append(element('p', { class: 'ways' }, ...ways.map((way) => button(way.words, way.pressed, { class: 'plain' }))));
  }
  return element('div', { class: 'fault', role: 'alert', 'data-code': fault.code }, icon('warning'), words);
}
