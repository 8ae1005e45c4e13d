/** One stream of samples from one rate to another; for browsers that give a microphone at its own rate alone. */

/** Zero crossings of the filter on each side of a sample. */
const LOBES = 16;
/** Of the narrower band, how much is kept: the rest is where the filter falls. */
const KEPT = 0.92;

export class Resampler {
  #step;
  #cut;
  #reach;
  #rest;
  /** Where in `#rest` the next sample stands. */
  #at;

  /**
   * @param {number} have  samples a second
   * @param {number} want
   */
  constructor(have, want) {
    this.#step = have / want;
    this.#cut = KEPT * Math.min(1, want / have);
    this.#reach = Math.ceil(LOBES / this.#cut);
    this.#rest = new Float32Array(this.#reach);
    this.#at = this.#reach;
  }

  /** What is ready after the next samples. */
  feed(samples) {
    if (this.#step === 1) return samples;
    const all = new Float32Array(this.#rest.length + samples.length);
    all.set(this.#rest);
    all.set(samples, this.#rest.length);
    const ready = [];
    for (; this.#at + this.#reach < all.length; this.#at += this.#step) ready.push(this.#value(all));
    const gone = Math.max(0, Math.floor(this.#at) - this.#reach);
    this.#rest = all.slice(gone);
    this.#at -= gone;
    return Float32Array.from(ready);
  }

  /** A windowed sinc around where the next sample stands. */
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
