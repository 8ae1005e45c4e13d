/** The microphone, as samples. */

import { Fault } from './faults.js';
import { loudness } from './loudness.js';

const WORKLET = new URL('recorder-worklet.js', import.meta.url);
/** Milliseconds the audio thread gets to hand over its last block. */
const FLUSH = 500;
/** What getUserMedia's refusals mean (Media Capture and Streams, 10.2). */
const REFUSALS = {
  NotAllowedError: 'microphone_denied',
  SecurityError: 'microphone_denied',
  NotFoundError: 'no_microphone',
  OverconstrainedError: 'no_microphone',
  NotReadableError: 'microphone_busy',
  AbortError: 'microphone_busy',
};

/**
 * @typedef {object} Recording
 * @property {Float32Array} samples
 * @property {number} rate  samples a second, as the device gives them
 */

export class Recorder {
  #stream;
  #context;
  #tap;
  #blocks = [];
  #length = 0;

  /**
   * Open the microphone.
   * @param {{onlevel: (level: number) => void, onlost: () => void}} told  onlost: the device went away
   * @throws {Fault}
   */
  static async open(told) {
    if (!window.isSecureContext) throw new Fault('insecure');
    if (!window.AudioWorkletNode || !navigator.mediaDevices?.getUserMedia) throw new Fault('no_recorder');
    const stream = await microphone();
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(WORKLET);
      return new Recorder(stream, context, told);
    } catch (error) {
      release(stream, context);
      throw error;
    }
  }

  constructor(stream, context, { onlevel, onlost }) {
    this.#stream = stream;
    this.#context = context;
    this.#tap = new AudioWorkletNode(context, 'tap', { channelCount: 1, channelCountMode: 'explicit' });
    this.#tap.port.onmessage = ({ data }) => {
      this.#blocks.push(data);
      this.#length += data.length;
      onlevel(loudness(data));
    };
    context.createMediaStreamSource(stream).connect(this.#tap);
    // It stays silent, but Safari runs only what leads to the loudspeaker.
    this.#tap.connect(context.destination);
    stream.getAudioTracks()[0].onended = onlost;
    this.wake();
  }

  /** Call when the user lets go of something: on touch screens a page may run its audio only from then on. */
  wake() {
    if (this.#context.state === 'suspended') this.#context.resume().catch(() => {});
  }

  /** Seconds recorded so far, counted in samples. */
  get seconds() {
    return this.#length / this.#context.sampleRate;
  }

  /** @returns {Promise<Recording>} */
  async close() {
    const whole = new Promise((resolve) => {
      const take = this.#tap.port.onmessage;
      this.#tap.port.onmessage = (message) => (message.data ? take(message) : resolve());
    });
    this.wake();
    this.#tap.port.postMessage('close');
    // An audio thread that sleeps answers nothing; then what has arrived is all there is.
    await Promise.race([whole, new Promise((resolve) => { setTimeout(resolve, FLUSH); })]);
    this.cancel();
    const samples = new Float32Array(this.#length);
    let at = 0;
    for (const block of this.#blocks) {
      samples.set(block, at);
      at += block.length;
    }
    return { samples, rate: this.#context.sampleRate };
  }

  /** Let go of the microphone. */
  cancel() {
    this.#tap.port.onmessage = null;
    this.#stream.getAudioTracks()[0].onended = null;
    release(this.#stream, this.#context);
  }
}

async function microphone() {
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Fault(REFUSALS[error.name] ?? 'microphone_busy', { detail: error.message });
  }
}

function release(stream, context) {
  for (const track of stream.getTracks()) track.stop();
  if (context.state !== 'closed') context.close();
}
