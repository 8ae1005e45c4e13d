/** Records single words: the microphone stays open for a while, so that the beginning of a word is not lost. */

import { Capture } from '../capture.js';
import { loudness } from '../loudness.js';

/** Audio before the press that belongs to the word, in seconds: people press a little late. */
const BEFORE = 0.15;
/** Time after a word during which the microphone stays open, in milliseconds. */
const IDLE = 20_000;

export class WordRecorder {
  #capture = null;
  #opening = null;
  #before = [];
  #blocks = null;
  #timer = 0;
  #onlevel;
  #onlost;

  /** @param {{onlevel: (level: number) => void, onlost: () => void}} callbacks  onlost: the device was lost */
  constructor({ onlevel, onlost }) {
    this.#onlevel = onlevel;
    this.#onlost = onlost;
  }

  /**
   * Begins a recording; resolves when samples arrive.
   * @throws {import('../faults.js').Fault}
   */
  async begin() {
    clearTimeout(this.#timer);
    if (!this.#capture) {
      const callbacks = { onblock: (samples) => this.#take(samples), onlost: () => this.#lost() };
      this.#opening ??= Capture.open(callbacks);
      try {
        this.#capture = await this.#opening;
      } finally {
        this.#opening = null;
      }
    }
    this.#capture.wake();
    this.#blocks = [...this.#before];
  }

  get recording() {
    return this.#blocks !== null;
  }

  /** Length of the recording in seconds, counted in samples. */
  get seconds() {
    return this.#blocks ? lengthOf(this.#blocks) / this.#capture.rate : 0;
  }

  /** Ends the recording. @returns {import('../recorder.js').Recording} */
  end() {
    const blocks = this.#blocks ?? [];
    this.#blocks = null;
    this.#timer = setTimeout(() => this.close(), IDLE);
    const samples = new Float32Array(lengthOf(blocks));
    let at = 0;
    for (const block of blocks) {
      samples.set(block, at);
      at += block.length;
    }
    return { samples, rate: this.#capture?.rate ?? 16_000 };
  }

  close() {
    clearTimeout(this.#timer);
    this.#capture?.close();
    this.#capture = this.#blocks = null;
    this.#before = [];
  }

  #take(samples) {
    // The audio thread ends its stream with nothing.
    if (!samples?.length) return;
    if (this.#blocks) {
      this.#blocks.push(samples);
      this.#onlevel(loudness(samples));
      return;
    }
    this.#before.push(samples);
    const most = BEFORE * (this.#capture?.rate ?? 48_000);
    while (this.#before.length > 1 && lengthOf(this.#before) - this.#before[0].length >= most) this.#before.shift();
  }

  #lost() {
    this.close();
    this.#onlost();
  }
}

function lengthOf(blocks) {
  return blocks.reduce((sum, block) => sum + block.length, 0);
}
