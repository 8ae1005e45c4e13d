/** Posts the microphone's samples to the page in blocks. Runs on the audio thread. */

/** Samples of a block: 43 ms at 24 and 48 kHz, often enough for a level meter; a multiple of the browser's block. */
const BLOCK = 128 * Math.round((0.043 * sampleRate) / 128);

class Tap extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK);
  #filled = 0;
  #open = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#open = false;
      this.port.postMessage(this.#block.slice(0, this.#filled));
      this.port.postMessage(null);
    };
  }

  process([[channel]]) {
    if (!this.#open) return false;
    if (!channel) return true;
    for (const sample of channel) {
      this.#block[this.#filled] = sample;
      this.#filled += 1;
      if (this.#filled === BLOCK) this.#send();
    }
    return true;
  }

  #send() {
    this.port.postMessage(this.#block, [this.#block.buffer]);
    this.#block = new Float32Array(BLOCK);
    this.#filled = 0;
  }
}

registerProcessor('tap', Tap);
