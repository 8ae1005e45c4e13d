/** Gapless playback of streamed audio: every chunk is scheduled where the previous one ends. */

import { loudness } from './loudness.js';

/** Delay of the first chunk, in seconds; covers the jitter of the page's thread. */
const LEAD = 0.06;
/** Time until audio that does not start counts as blocked, in milliseconds. */
const PATIENCE = 800;

/**
 * @typedef {object} Chunk
 * @property {Float32Array} samples
 * @property {number} rate  sample rate in hertz
 * @property {string} text  the spoken text, or ''
 */

/** 16-bit little-endian PCM as samples between -1 and 1. */
export function samplesOf(buffer) {
  const view = new DataView(buffer);
  const samples = new Float32Array(view.byteLength >> 1);
  for (let i = 0; i < samples.length; i += 1) samples[i] = view.getInt16(2 * i, true) / 32768;
  return samples;
}

/** The bytes of base64, as a buffer. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}

/** The page's audio output: at most one playback runs at a time. */
export class Player {
  #context = null;
  #analyser = null;
  #current = null;
  /** Called with the loudness of the playback, 0 to 1, on every animation frame. */
  onlevel = (_level) => {};
  /** Called when the playback of an answer starts and ends. */
  onspeaking = (_on) => {};
  /** Called when the browser blocks audio before a user interaction. */
  onblocked = () => {};

  /** Enables audio. Call while handling a pointer or key event: browsers allow audio only then. */
  unlock() {
    this.#open();
    if (this.#context.state !== 'running') this.#context.resume().catch(() => {});
  }

  /**
   * Starts a new playback and stops the previous one.
   * @param {(chunk: Chunk|null) => void} [onchunk]  called with the chunk that plays; null at the end
   */
  begin(onchunk = () => {}) {
    this.stop();
    this.unlock();
    const playback = new Playback(this.#context, this.#analyser, onchunk);
    this.#current = playback;
    this.#follow(playback);
    setTimeout(() => {
      if (playback.playing && this.#context.state !== 'running') this.#blocked(playback);
    }, PATIENCE);
    return playback;
  }

  /** Plays complete chunks. */
  play(chunks, onchunk) {
    const playback = this.begin(onchunk);
    for (const chunk of chunks) playback.add(chunk);
    playback.finish();
    return playback;
  }

  stop() {
    this.#current?.stop();
    this.#current = null;
  }

  #open() {
    if (this.#context) return;
    this.#context = new AudioContext({ latencyHint: 'interactive' });
    this.#analyser = this.#context.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#analyser.connect(this.#context.destination);
  }

  #blocked(playback) {
    playback.stop();
    this.onblocked();
  }

  #follow(playback) {
    const window = new Float32Array(this.#analyser.fftSize);
    const step = () => {
      if (!playback.playing) return this.onlevel(0);
      this.#analyser.getFloatTimeDomainData(window);
      this.onlevel(loudness(window));
      playback.reportChunk();
      return requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

/** The playback of one answer or recording. */
class Playback {
  #context;
  #out;
  #onchunk;
  #sources = new Set();
  #schedule = [];
  #playingChunk = null;
  #next = 0;
  #finished = false;
  #resolve;

  constructor(context, out, onchunk) {
    this.#context = context;
    this.#out = out;
    this.#onchunk = onchunk;
    this.playing = true;
    /** Length of the scheduled audio, in seconds. */
    this.seconds = 0;
    /** Resolves when the last chunk was played, or at `stop`. */
    this.ended = new Promise((resolve) => { this.#resolve = resolve; });
  }

  /** @param {Chunk} chunk */
  add(chunk) {
    if (!this.playing || !chunk.samples.length) return;
    const buffer = this.#context.createBuffer(1, chunk.samples.length, chunk.rate);
    buffer.copyToChannel(chunk.samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#out);
    const at = Math.max(this.#next, this.#context.currentTime + LEAD);
    source.start(at);
    source.onended = () => this.#sourceEnded(source);
    this.#sources.add(source);
    this.#schedule.push({ at, chunk });
    this.#next = at + buffer.duration;
    this.seconds += buffer.duration;
  }

  /** Ends the stream of chunks. */
  finish() {
    this.#finished = true;
    if (!this.#sources.size) this.stop();
  }

  stop() {
    if (!this.playing) return;
    this.playing = false;
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#sources.clear();
    this.#onchunk(null);
    this.#resolve();
  }

  /** Reports the chunk that plays now, if it changed. */
  reportChunk() {
    const now = this.#context.currentTime - (this.#context.outputLatency || 0);
    const playingChunk = this.#schedule.findLast(({ at }) => at <= now)?.chunk ?? null;
    if (playingChunk === this.#playingChunk) return;
    this.#playingChunk = playingChunk;
    this.#onchunk(playingChunk);
  }

  #sourceEnded(source) {
    source.disconnect();
    this.#sources.delete(source);
    if (this.#finished && !this.#sources.size) this.stop();
  }
}
