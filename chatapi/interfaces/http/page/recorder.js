/** Records the microphone until it is closed. */

import { Capture } from './capture.js';
import { loudness } from './loudness.js';

/**
 * @typedef {object} Recording
 * @property {Float32Array} samples
 * @property {number} rate  the device's sample rate in hertz
 */

export class Recorder {
  #capture = null;
  #blocks = [];
  #length = 0;

  /**
   * Opens the microphone.
   * @param {{onlevel: (level: number) => void, onlost: () => void}} callbacks  onlost: the device was lost
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

  /** Resumes audio. Call on pointerup: on touch screens a page may run audio only from then on. */
  wake() {
    this.#capture.wake();
  }

  /** Length of the recording in seconds, counted in samples. */
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

  /** Closes the microphone and discards the recording. */
  cancel() {
    this.#capture.close();
  }
}
