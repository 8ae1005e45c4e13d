/** A recording: the microphone's samples, kept until it is over. */

import { Capture } from './capture.js';
import { loudness } from './loudness.js';

/**
 * @typedef {object} Recording
 * @property {Float32Array} samples
 * @property {number} rate  samples a second, as the device gives them
 */

export class Recorder {
  #capture = null;
  #blocks = [];
  #length = 0;

  /**
   * Open the microphone.
   * @param {{onlevel: (level: number) => void, onlost: () => void}} told  onlost: the device went away
   * @throws {import('./faults.js').Fault}
   */
  static async open({ onlevel, onlost }) {
    const recorder = new Recorder();
    const onblock = (samples) => {
      recorder.#blocks.push(samples);
      recorder.#length += samples.length;
      if (samples.length) onlevel(loudness(samples));
    };
    recorder.#capture = await Capture.open({ onblock, onlost });
    return recorder;
  }

  /** Call when the user lets go of something: on touch screens a page may run its audio only from then on. */
  wake() {
    this.#capture.wake();
  }

  /** Seconds recorded so far, counted in samples. */
  get seconds() {
    return this.#length / this.#capture.rate;
  }

  /** @returns {Promise<Recording>} */
  async close() {
    await this.#capture.finish();
    const samples = new Float32Array(this.#length);
    let at = 0;
    for (const block of this.#blocks) {
      samples.set(block, at);
      at += block.length;
    }
    return { samples, rate: this.#capture.rate };
  }

  /** Let go of the microphone. */
  cancel() {
    this.#capture.close();
  }
}
