/** Resamples a stream, for browsers that capture a microphone only at its own rate. */

/** Zero crossings of the filter on each side of a sample. */
const LOBES = 16;
/** Share of the narrower band that passes; the filter falls off in the rest. */
const PASSBAND = 0.92;

export class Resampler {
  #step;
  #cut;
  #reach;
  #rest;
  /** Position of the next output sample in `#rest`. */
  #at;

  /**
   * @param {number} from  input sample rate in hertz
   * @param {number} to  output sample rate in hertz
   */
  constructor(from, to) {
    this.#step = from / to;
    this.#cut = PASSBAND * Math.min(1, to / from);
    this.#reach = Math.ceil(LOBES / this.#cut);
    this.#rest = new Float32Array(this.#reach);
    this.#at = this.#reach;
  }

  /** The output that is ready after more input. */
  feed(samples) {
    if (this.#step === 1) return samples;
    const all = new Float32Array(this.#rest.length + samples.length);
    all.set(this.#rest);
    all.set(samples, this.#rest.length);
    const ready = [];
    for (; this.#at + this.#reach < all.length; this.#at += this.#step) ready.push(this.#value(all));
    const consumed = Math.max(0, Math.floor(this.#at) - this.#reach);
    this.#rest = all.slice(consumed);
    this.#at -= consumed;
    return Float32Array.from(ready);
  }

  /** A windowed sinc around the position of the next output sample. */
  #value(all) {
    let sum = 0;
    const last = Math.floor(this.#at + this.#reach);
    for (let index = Math.max(0, Math.ceil(this.#at - this.#reach)); index <= last; index += 1) {
      const away = index - this.#at;
      const angle = Math.PI * this.#cut * away;
      const sinc = Math.abs(angle) < 1e-9 ? 1 : Math.sin(angle) / angle;
      sum += all[index] * this.#cut * sinc * (0.5 + 0.5 * Math.cos((Math.PI * away) / this.#reach));
    }
    return sum;
  }
}
