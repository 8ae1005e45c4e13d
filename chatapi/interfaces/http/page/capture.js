/** Microphone capture in blocks of samples. */

import { Fault } from './faults.js';

const WORKLET = new URL('recorder-worklet.js', import.meta.url);
/** Timeout for the last block of the audio thread, in milliseconds. */
const FLUSH = 500;
/** getUserMedia's error name -> fault code (Media Capture and Streams, 10.2). */
const ERRORS = {
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

  /** @throws {Fault} when the browser cannot open a microphone */
  static check() {
    if (!window.isSecureContext) throw new Fault('insecure');
    if (!window.AudioWorkletNode || !navigator.mediaDevices?.getUserMedia) throw new Fault('no_recorder');
  }

  /**
   * Opens the microphone.
   * @param {{onblock: (samples: Float32Array) => void, onlost: () => void}} callbacks  onlost: the device was lost
   * @param {number} [requestedRate]  requested sample rate in hertz; see `rate` for the actual one
   * @throws {Fault}
   */
  static async open(callbacks, requestedRate) {
    Capture.check();
    const stream = await microphone();
    try {
      return new Capture(stream, await openTap(stream, requestedRate), callbacks);
    } catch (error) {
      stopTracks(stream);
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

  /** Sample rate in hertz. */
  get rate() {
    return this.#context.sampleRate;
  }

  /** A muted microphone captures silence, and the browser shows that it is muted. */
  set muted(on) {
    this.#stream.getAudioTracks()[0].enabled = !on;
  }

  /** Resumes audio. Call on pointerup: on touch screens a page may run audio only from then on. */
  wake() {
    if (this.#context.state === 'suspended') this.#context.resume().catch(() => {});
  }

  /** Closes the microphone after its last samples. */
  async finish() {
    const drained = new Promise((resolve) => {
      const onblock = this.#tap.port.onmessage;
      this.#tap.port.onmessage = (message) => (message.data ? onblock(message) : resolve());
    });
    this.wake();
    this.#tap.port.postMessage('close');
    // A suspended audio thread does not answer; then the recording ends with the samples received.
    await Promise.race([drained, new Promise((resolve) => { setTimeout(resolve, FLUSH); })]);
    this.close();
  }

  /** Closes the microphone. */
  close() {
    this.#tap.port.onmessage = null;
    this.#stream.getAudioTracks()[0].onended = null;
    stopTracks(this.#stream);
    if (this.#context.state !== 'closed') this.#context.close();
  }
}

/** Loads a worklet module into the audio thread. */
export async function workletOf(context, url) {
  try {
    await context.audioWorklet.addModule(url);
  } catch (error) {
    // Browsers report the same error for every failed download.
    throw new Fault('unreachable', { detail: error.message });
  }
}

async function microphone() {
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Fault(ERRORS[error.name] ?? 'microphone_busy', { detail: error.message });
  }
}

async function openTap(stream, requestedRate) {
  const context = new AudioContext(requestedRate ? { sampleRate: requestedRate } : {});
  try {
    await workletOf(context, WORKLET);
    const tap = new AudioWorkletNode(context, 'tap', { channelCount: 1, channelCountMode: 'explicit' });
    context.createMediaStreamSource(stream).connect(tap);
    // It outputs silence, but Safari runs only nodes that are connected to the destination.
    tap.connect(context.destination);
    return { context, tap };
  } catch (error) {
    context.close();
    // Firefox supports a microphone only at the device's own rate.
    if (requestedRate && error.name === 'NotSupportedError') return openTap(stream);
    throw error;
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}
