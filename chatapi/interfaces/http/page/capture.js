/** The microphone's samples, a block at a time, as they come. */

import { Fault } from './faults.js';

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

export class Capture {
  #stream;
  #context;
  #tap;

  /** @throws {Fault} where no browser would open one */
  static check() {
    if (!window.isSecureContext) throw new Fault('insecure');
    if (!window.AudioWorkletNode || !navigator.mediaDevices?.getUserMedia) throw new Fault('no_recorder');
  }

  /**
   * Open the microphone.
   * @param {{onblock: (samples: Float32Array) => void, onlost: () => void}} told  onlost: the device went away
   * @param {number} [wanted]  samples a second; `rate` tells what it became
   * @throws {Fault}
   */
  static async open(told, wanted) {
    Capture.check();
    const stream = await microphone();
    try {
      return new Capture(stream, await tapped(stream, wanted), told);
    } catch (error) {
      stopped(stream);
      throw error;
    }
  }

  constructor(stream, { context, tap }, { onblock, onlost }) {
    this.#stream = stream;
    this.#context = context;
    this.#tap = tap;
    tap.port.onmessage = ({ data }) => onblock(data);
    stream.getAudioTracks()[0].onended = onlost;
    this.wake();
  }

  /** Samples a second. */
  get rate() {
    return this.#context.sampleRate;
  }

  /** While it is muted, silence comes, and the browser shows that nothing is heard. */
  set muted(on) {
    this.#stream.getAudioTracks()[0].enabled = !on;
  }

  /** Call when the user lets go of something: on touch screens a page may run its audio only from then on. */
  wake() {
    if (this.#context.state === 'suspended') this.#context.resume().catch(() => {});
  }

  /** Let go of the microphone once its last samples were handed over. */
  async finish() {
    const whole = new Promise((resolve) => {
      const take = this.#tap.port.onmessage;
      this.#tap.port.onmessage = (message) => (message.data ? take(message) : resolve());
    });
    this.wake();
    this.#tap.port.postMessage('close');
    // An audio thread that sleeps answers nothing; then what has arrived is all there is.
    await Promise.race([whole, new Promise((resolve) => { setTimeout(resolve, FLUSH); })]);
    this.close();
  }

  /** Let go of the microphone. */
  close() {
    this.#tap.port.onmessage = null;
    this.#stream.getAudioTracks()[0].onended = null;
    stopped(this.#stream);
    if (this.#context.state !== 'closed') this.#context.close();
  }
}

/** Load a part of the page that runs on the audio thread. */
export async function workletOf(context, url) {
  try {
    await context.audioWorklet.addModule(url);
  } catch (error) {
    // Browsers say the same of everything that keeps a file from coming.
    throw new Fault('unreachable', { detail: error.message });
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

async function tapped(stream, wanted) {
  const context = new AudioContext(wanted ? { sampleRate: wanted } : {});
  try {
    await workletOf(context, WORKLET);
    const tap = new AudioWorkletNode(context, 'tap', { channelCount: 1, channelCountMode: 'explicit' });
    context.createMediaStreamSource(stream).connect(tap);
    // It stays silent, but Safari runs only what leads to the loudspeaker.
    tap.connect(context.destination);
    return { context, tap };
  } catch (error) {
    context.close();
    // Firefox gives a microphone only at the device's own rate.
    if (wanted && error.name === 'NotSupportedError') return tapped(stream);
    throw error;
  }
}

function stopped(stream) {
  for (const track of stream.getTracks()) track.stop();
}
