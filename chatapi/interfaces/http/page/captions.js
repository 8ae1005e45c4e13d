/** One live answer: its words are shown as they are heard. */

import { located } from './highlight.js';

/**
 * @typedef {object} Stretch
 * @property {number} from   first sample
 * @property {number} until  sample after the last
 * @property {string} text   the words it says, numbers and abbreviations written out
 * @property {[number, number]} range  where they stand in what is written
 */

export class Captions {
  #answer;
  #rate;
  #written = '';
  #shown = 0;
  /** @type {Stretch[]} */
  #stretches = [];
  #blocks = [];
  /** Samples that have come. */
  samples = 0;

  /**
   * @param {import('./answer.js').Answer} answer
   * @param {number} rate  samples a second
   */
  constructor(answer, rate) {
    this.#answer = answer;
    this.#rate = rate;
  }

  /** The next words, as they are written. */
  write(text) {
    this.#written += text;
  }

  /** Which words a stretch of the sound says; it comes before that sound. */
  spoke({ text, audio_start_ms: start, audio_end_ms: end }) {
    const last = this.#stretches.at(-1);
    const until = Math.round((end * this.#rate) / 1000);
    if (last?.text === text) {
      last.until = until;
      return;
    }
    const range = this.#place(text, last?.range[1] ?? 0);
    this.#stretches.push({ from: Math.round((start * this.#rate) / 1000), until, text, range });
  }

  /** @param {Float32Array} samples */
  sound(samples) {
    this.#blocks.push(samples);
    this.samples += samples.length;
  }

  /** So many samples have been heard: show the words they say. */
  heard(samples) {
    const now = this.#stretches.findLast(({ from }) => from < samples);
    if (now) this.#show(this.#reached(now, samples));
  }

  /** All of it was heard. */
  whole() {
    this.#show(this.#written.length);
    this.#keep(this.samples);
  }

  /** Only so many samples were heard. */
  cut(samples) {
    this.heard(samples);
    if (this.#shown && this.#shown < this.#written.trimEnd().length) this.#answer.add(' —');
    this.#keep(samples);
  }

  /** Whole words only; of a stretch in the middle as many as its share of the time. */
  #reached({ from, until, range: [start, end] }, samples) {
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

  /** What the box says besides what is written, such as that it takes longer, stands nowhere. */
  #place(text, from) {
    const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    const near = this.#written.slice(from, from + 2 * text.length + 20).toLowerCase();
    const found = words.filter((word) => near.includes(word)).length;
    return found * 2 > words.length ? located(this.#written, text, from) : [from, from];
  }

  /** Hand over what was heard, to be heard again. */
  #keep(samples) {
    const all = new Float32Array(this.samples);
    let at = 0;
    for (const block of this.#blocks) {
      all.set(block, at);
      at += block.length;
    }
    for (const { from, until, text } of this.#stretches) {
      const part = all.subarray(from, Math.min(until, samples));
      if (part.length && from < samples) this.#answer.sound({ samples: part, rate: this.#rate, text });
    }
    this.#blocks = [];
  }
}
