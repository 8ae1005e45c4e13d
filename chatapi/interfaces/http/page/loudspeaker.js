/** Playback of a live conversation: pauses at a sample, and reports how much of an answer was played. */

import { workletOf } from './capture.js';

const WORKLET = new URL('loudspeaker-worklet.js', import.meta.url);
/** Longest device latency that is believed, in seconds. */
const MAX_LATENCY = 0.5;

/**
 * @typedef {object} Progress
 * @property {number} answer  its number from `begin`
 * @property {number} played  samples of it that have left the device
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
   * Create it while handling a pointer or key event: browsers allow audio only then.
   * @param {number} rate  sample rate in hertz
   * @param {(progress: Progress) => void} onprogress  called about twenty times a second
   */
  constructor(rate, onprogress) {
    this.#onprogress = onprogress;
    this.#context = new AudioContext({ sampleRate: rate, latencyHint: 'interactive' });
    this.wake();
    this.ready = this.#open();
  }

  /** Resumes audio. Call on every pointer and key event, for browsers that blocked audio before. */
  wake() {
    if (this.#context.state === 'suspended') this.#context.resume().catch(() => {});
  }

  /** Whether the browser allows audio. */
  get allowed() {
    return this.#context.state === 'running';
  }

  /** Starts the next answer; drops the rest of the previous one. */
  begin() {
    this.#answer += 1;
    this.#post({ what: 'begin', answer: this.#answer });
    return this.#answer;
  }

  /** @param {Float32Array} samples */
  add(samples) {
    this.#post({ what: 'add', samples });
  }

  pause() {
    this.#post({ what: 'pause' });
  }

  resume() {
    this.#post({ what: 'resume' });
  }

  /** Stops playback and drops the queue. */
  clear() {
    this.#post({ what: 'clear' });
  }

  close() {
    if (this.#node) this.#node.port.onmessage = null;
    if (this.#context.state !== 'closed') this.#context.close();
  }

  #post(message) {
    this.#node?.port.postMessage(message);
  }

  async #open() {
    await workletOf(this.#context, WORKLET);
    this.#node = new AudioWorkletNode(this.#context, 'loudspeaker', { numberOfInputs: 0, outputChannelCount: [1] });
    this.#node.port.onmessage = ({ data }) => this.#reported(data);
    this.#node.connect(this.#context.destination);
  }

  #reported({ answer, played, idle, power }) {
    // The last samples are still in the device's buffer; silence after them pushes them out.
    const latency = Math.min(MAX_LATENCY, this.#context.outputLatency || 0) * this.#context.sampleRate;
    const reached = Math.max(0, Math.round(played - Math.max(0, latency - idle)));
    const level = Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-10)) / 50));
    this.#onprogress({ answer, played: reached, level });
  }
}
