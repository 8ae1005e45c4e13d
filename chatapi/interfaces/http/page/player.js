/** Sound as it comes, without gaps: every piece is scheduled to begin where the one before it ends. */

import { loudness } from './loudness.js';

/** Seconds between scheduling the first piece and hearing it; covers the jitter of the page's own thread. */
const LEAD = 0.06;
/** Milliseconds a browser gets to start its sound before it counts as blocked. */
const PATIENCE = 800;

/**
 * @typedef {object} Piece
 * @property {Float32Array} samples
 * @property {number} rate  samples a second
 * @property {string} text  the words it says, or ''
 */

/** 16-bit little-endian PCM in base64, as samples between -1 and 1. */
export function samplesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const samples = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < samples.length; i += 1) samples[i] = view.getInt16(2 * i, true) / 32768;
  return samples;
}

/** The page's one loudspeaker: at most one playback sounds at a time. */
export class Player {
  #context = null;
  #analyser = null;
  #current = null;
  /** Called with the loudness of what is heard, 0 to 1, about as often as the screen is drawn. */
  onlevel = (_level) => {};
  /** Called when an answer begins to be heard, and when it ends. */
  onspeaking = (_on) => {};
  /** Called when the browser refuses to make a sound before the page is touched. */
  onblocked = () => {};

  /** Call while handling a touch or a key: only then do browsers let a page make sound. */
  unlock() {
    this.#open();
    if (this.#context.state !== 'running') this.#context.resume().catch(() => {});
  }

  /**
   * A new playback; the one before it falls silent.
   * @param {(piece: Piece|null) => void} [onpiece]  told which piece is heard; null when it is over
   */
  begin(onpiece = () => {}) {
    this.stop();
    this.unlock();
    const playback = new Playback(this.#context, this.#analyser, onpiece);
    this.#current = playback;
    this.#follow(playback);
    setTimeout(() => {
      if (playback.playing && this.#context.state !== 'running') this.#refused(playback);
    }, PATIENCE);
    return playback;
  }

  /** Play pieces that are all there. */
  play(pieces, onpiece) {
    const playback = this.begin(onpiece);
    for (const piece of pieces) playback.add(piece);
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

  #refused(playback) {
    playback.stop();
    this.onblocked();
  }

  #follow(playback) {
    const window = new Float32Array(this.#analyser.fftSize);
    const step = () => {
      if (!playback.playing) return this.onlevel(0);
      this.#analyser.getFloatTimeDomainData(window);
      this.onlevel(loudness(window));
      playback.tell();
      return requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

/** One answer or recording on its way to the ear. */
class Playback {
  #context;
  #out;
  #onpiece;
  #sources = new Set();
  #schedule = [];
  #heard = null;
  #next = 0;
  #finished = false;
  #resolve;

  constructor(context, out, onpiece) {
    this.#context = context;
    this.#out = out;
    this.#onpiece = onpiece;
    this.playing = true;
    /** Seconds of sound that were scheduled. */
    this.seconds = 0;
    /** Resolves when the last piece was heard, or at `stop`. */
    this.ended = new Promise((resolve) => { this.#resolve = resolve; });
  }

  /** @param {Piece} piece */
  add(piece) {
    if (!this.playing || !piece.samples.length) return;
    const buffer = this.#context.createBuffer(1, piece.samples.length, piece.rate);
    buffer.copyToChannel(piece.samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#out);
    const at = Math.max(this.#next, this.#context.currentTime + LEAD);
    source.start(at);
    source.onended = () => this.#over(source);
    this.#sources.add(source);
    this.#schedule.push({ at, piece });
    this.#next = at + buffer.duration;
    this.seconds += buffer.duration;
  }

  /** Nothing more will be added. */
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
    this.#onpiece(null);
    this.#resolve();
  }

  /** Say which piece is heard now, if it is another one than before. */
  tell() {
    const now = this.#context.currentTime - (this.#context.outputLatency || 0);
    const heard = this.#schedule.findLast(({ at }) => at <= now)?.piece ?? null;
    if (heard === this.#heard) return;
    this.#heard = heard;
    this.#onpiece(heard);
  }

  #over(source) {
    source.disconnect();
    this.#sources.delete(source);
    if (this.#finished && !this.#sources.size) this.stop();
  }
}
