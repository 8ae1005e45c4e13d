/** The live conversation's loudspeaker: it can pause at a sample, and knows how much of an answer was heard. */

import { workletOf } from './capture.js';

const WORKLET = new URL('loudspeaker-worklet.js', import.meta.url);
/** Seconds: what a device claims beyond this to hold back is not believed. */
const LATEST = 0.5;

/**
 * @typedef {object} Progress
 * @property {number} answer  which one, as `begin` numbered it
 * @property {number} heard   samples of it that have reached the ear
 * @property {number} level   loudness, 0 to 1
 */

export class Loudspeaker {
  #context;
  #node = null;
  #answer = 0;
  #onprogress;
  /** Resolves once it can play. */
  ready;

  /**
   * Make it while handling a touch or a key: only then do browsers let a page make sound.
   * @param {number} rate  samples a second
   * @param {(progress: Progress) => void} onprogress  told about twenty times a second
   */
  constructor(rate, onprogress) {
    this.#onprogress = onprogress;
    this.#context = new AudioContext({ sampleRate: rate, latencyHint: 'interactive' });
    this.wake();
    this.ready = this.#opened();
  }

  /** Call at every touch and key, for browsers that did not allow sound before. */
  wake() {
    if (this.#context.state === 'suspended') this.#context.resume().catch(() => {});
  }

  /** Whether the browser lets it sound. */
  get allowed() {
    return this.#context.state === 'running';
  }

  /** The next answer, from its first sample on; what was left of the one before is thrown away. */
  begin() {
    this.#answer += 1;
    this.#tell({ what: 'begin', answer: this.#answer });
    return this.#answer;
  }

  /** @param {Float32Array} samples */
  add(samples) {
    this.#tell({ what: 'add', samples });
  }

  pause() {
    this.#tell({ what: 'pause' });
  }

  resume() {
    this.#tell({ what: 'resume' });
  }

  /** Be silent and throw away the rest. */
  clear() {
    this.#tell({ what: 'clear' });
  }

  close() {
    if (this.#node) this.#node.port.onmessage = null;
    if (this.#context.state !== 'closed') this.#context.close();
  }

  #tell(message) {
    this.#node?.port.postMessage(message);
  }

  async #opened() {
    await workletOf(this.#context, WORKLET);
    this.#node = new AudioWorkletNode(this.#context, 'loudspeaker', { numberOfInputs: 0, outputChannelCount: [1] });
    this.#node.port.onmessage = ({ data }) => this.#reported(data);
    this.#node.connect(this.#context.destination);
  }

  #reported({ answer, played, idle, power }) {
    // What was handed over last is still in the device; silence after it pushes it out.
    const latency = Math.min(LATEST, this.#context.outputLatency || 0) * this.#context.sampleRate;
    const heard = Math.max(0, Math.round(played - Math.max(0, latency - idle)));
    const level = Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-10)) / 50));
    this.#onprogress({ answer, heard, level });
  }
}
