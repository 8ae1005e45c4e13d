/** Draws audio: the waveform of a recording, and a level meter. */

import { drawing, element } from './dom.js';
import { loudness } from './loudness.js';

const BARS = 36;
const METER_BARS = 96;

/** The waveform of a recording, in 36 bars. */
export function waveform({ samples }) {
  const svg = drawing('svg', { class: 'waveform', viewBox: `0 0 ${BARS * 4} 32`, 'aria-hidden': 'true' });
  const step = Math.max(1, Math.floor(samples.length / BARS));
  for (let bar = 0; bar < BARS; bar += 1) {
    const height = 3 + 27 * loudness(samples.subarray(bar * step, (bar + 1) * step)) ** 2;
    const y = String(16 - height / 2);
    svg.append(drawing('rect', { x: String(bar * 4), y, width: '2.4', height: String(height), rx: '1.2' }));
  }
  return svg;
}

/** A level meter of the last moments, the newest at the right. */
export class Meter {
  #element;
  #bars;
  #levels = new Array(METER_BARS).fill(0);

  constructor(holder) {
    this.#element = holder;
    this.#bars = Array.from({ length: METER_BARS }, () => element('i'));
    holder.replaceChildren(...this.#bars);
  }

  clear() {
    this.#levels.fill(0);
    this.#show();
  }

  /** @param {number} level  0 to 1 */
  add(level) {
    this.#levels.shift();
    this.#levels.push(level);
    this.#show();
  }

  #show() {
    this.#levels.forEach((level, index) => this.#bars[index].style.setProperty('--level', level.toFixed(3)));
    this.#element.setAttribute('aria-valuenow', String(Math.round(100 * this.#levels.at(-1))));
  }
}
