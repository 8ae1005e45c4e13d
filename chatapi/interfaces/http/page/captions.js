/** Captions of one live answer: its text appears as its audio plays. */

import { locate } from './highlight.js';

/**
 * @typedef {object} Span
 * @property {number} from   the first sample
 * @property {number} until  the sample after the last
 * @property {string} text   the spoken text, after text normalization
 * @property {[number, number]} range  its position in the written text
 */

export class Captions {
  #answer;
  #rate;
  #written = '';
  #shown = 0;
  /** @type {Span[]} */
  #spans = [];
  #blocks = [];
  /** Samples received. */
  samples = 0;

  /**
   * @param {import('./answer.js').Answer} answer
   * @param {number} rate  samples a second
   */
  constructor(answer, rate) {
    this.#answer = answer;
    this.#rate = rate;
  }

  /** Appends written text. */
  write(text) {
    this.#written += text;
  }

  /** Adds the text of the next audio, which arrives after it. */
  addSpan({ text, audio_start_ms: start, audio_end_ms: end }) {
    const last = this.#spans.at(-1);
    const until = Math.round((end * this.#rate) / 1000);
    if (last?.text === text) {
      last.until = until;
      return;
    }
    const range = this.#place(text, last?.range[1] ?? 0);
    this.#spans.push({ from: Math.round((start * this.#rate) / 1000), until, text, range });
  }

  /** @param {Float32Array} samples */
  addAudio(samples) {
    this.#blocks.push(samples);
    this.samples += samples.length;
  }

  /** Shows the text of the samples that have been played. */
  showPlayed(samples) {
    const now = this.#spans.findLast(({ from }) => from < samples);
    if (now) this.#show(this.#endOfSpoken(now, samples));
  }

  /** Shows the whole text after complete playback. */
  complete() {
    this.#show(this.#written.length);
    this.#keep(this.samples);
  }

  /** Ends the captions after the samples that were played. */
  cut(samples) {
    this.showPlayed(samples);
    if (this.#shown && this.#shown < this.#written.trimEnd().length) this.#answer.add(' —');
    this.#keep(samples);
  }

  /** The end of the spoken text: whole words, within a span proportional to the time. */
  #endOfSpoken({ from, until, range: [start, end] }, samples) {
    if (samples >= until) return end;
    const share = start + Math.round(((end - start) * (samples - from)) / Math.max(1, until - from));
    const next = this.#written.slice(share, end).search(/\s/);
    return next < 0 ? end : share + next;
  }

  #show(until) {
    if (until <= this.#shown) return;
    this.#answer.add(this.#written.slice(this.#shown, until));
    this.#shown = until;
  }

  /** The position of spoken text; empty for text outside the answer, such as fallback phrases. */
  #place(text, from) {
    const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    const near = this.#written.slice(from, from + 2 * text.length + 20).toLowerCase();
    const found = words.filter((word) => near.includes(word)).length;
    return found * 2 > words.length ? locate(this.#written, text, from) : [from, from];
  }

  /** Passes the played audio to the view for replay. */
  #keep(samples) {
    const all = new Float32Array(this.samples);
    let at = 0;
    for (const block of this.#blocks) {
      all.set(block, at);
      at += block.length;
    }
    for (const { from, until, text } of this.#spans) {
      const part = all.subarray(from, Math.min(until, samples));
      if (part.length && from < samples) this.#answer.addAudio({ samples: part, rate: this.#rate, text });
    }
    this.#blocks = [];
  }
}
