/** Draws the live spectrum of a place: time to the right, frequency upwards, level as colour. */

/** Seconds that are shown. */
export const SECONDS = 300;
const BANDS = 64;
const COLUMNS_PER_SECOND = 4;
/** Colours from quiet to loud, as in the stored pictures: index, red, green, blue. */
const COLOURS = [[0, 4, 4, 20], [70, 75, 15, 110], [140, 190, 55, 85], [205, 250, 160, 45], [255, 255, 255, 215]];
/** Levels in bytes that become the darkest and the brightest colour, as distances from the median of a picture. */
const BELOW = 12;
const ABOVE = 90;

export class Spectrogram {
  root;
  #pieces = [];
  #draws = false;

  /** @param {string} label */
  constructor(label) {
    this.root = document.createElement('canvas');
    this.root.width = SECONDS * COLUMNS_PER_SECOND;
    this.root.height = BANDS;
    this.root.className = 'streams-spectrum';
    this.root.setAttribute('role', 'img');
    this.root.setAttribute('aria-label', label);
  }

  /** Adds a piece: its `start` and `seconds`, and its levels as base64. */
  add({ start, seconds, levels }) {
    const bytes = Uint8Array.from(atob(levels), (each) => each.charCodeAt(0));
    this.#pieces = this.#pieces.filter((each) => each.start !== start && each.start + each.seconds > start + seconds - SECONDS);
    this.#pieces.push({ start, seconds, bytes });
    if (this.#draws) return;
    this.#draws = true;
    requestAnimationFrame(() => {
      this.#draws = false;
      this.#draw();
    });
  }

  #draw() {
    const { width, height } = this.root;
    const context = this.root.getContext('2d');
    const image = context.createImageData(width, height);
    const end = Math.max(...this.#pieces.map((each) => each.start + each.seconds));
    const middle = median(this.#pieces.map((each) => each.bytes));
    for (const { start, bytes } of this.#pieces) {
      const first = Math.round((start - end + SECONDS) * COLUMNS_PER_SECOND);
      for (let column = 0; column < bytes.length / BANDS; column += 1) {
        const x = first + column;
        if (x < 0 || x >= width) continue;
        for (let band = 0; band < BANDS; band += 1) {
          const level = (bytes[column * BANDS + band] - middle + BELOW) / (ABOVE + BELOW);
          paint(image.data, 4 * ((height - 1 - band) * width + x), Math.round(255 * Math.min(1, Math.max(0, level))));
        }
      }
    }
    context.putImageData(image, 0, 0);
    this.root.dataset.columns = String(this.#pieces.reduce((sum, each) => sum + each.bytes.length / BANDS, 0));
  }
}

function median(parts) {
  const counts = new Uint32Array(256);
  let left = 0;
  for (const part of parts) for (const each of part) counts[each] += 1;
  for (const count of counts) left += count;
  left /= 2;
  return counts.findIndex((count) => (left -= count) <= 0);
}

function paint(data, at, level) {
  const colour = PALETTE[level];
  data[at] = colour[0];
  data[at + 1] = colour[1];
  data[at + 2] = colour[2];
  data[at + 3] = 255;
}

const PALETTE = Array.from({ length: 256 }, (_, level) => {
  const above = COLOURS.findIndex(([index]) => index >= level);
  const [to, ...high] = COLOURS[above];
  const [from, ...low] = COLOURS[Math.max(0, above - 1)];
  const part = to === from ? 0 : (level - from) / (to - from);
  return high.map((each, channel) => Math.round(low[channel] + part * (each - low[channel])));
});
