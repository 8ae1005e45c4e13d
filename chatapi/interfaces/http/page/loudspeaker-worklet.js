/** Plays samples in order and counts every one of them. Runs on the audio thread. */

/** Samples between two reports. */
const REPORT = Math.round(sampleRate / 20);
/** Samples of a fade, so that a pause does not click. */
const FADE = Math.round(sampleRate / 200);

class Loudspeaker extends AudioWorkletProcessor {
  #queue = [];
  #at = 0;
  #answer = 0;
  #played = 0;
  /** Samples of silence since the last played one; meanwhile the device plays its buffer. */
  #idle = 0;
  #paused = false;
  #gain = 1;
  #since = 0;
  #power = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => this.#handle(data);
  }

  #handle({ what, answer, samples }) {
    if (what === 'add') this.#queue.push(samples);
    else if (what === 'pause') this.#paused = true;
    else if (what === 'resume') this.#paused = false;
    else if (what === 'begin') {
      this.#clear();
      this.#answer = answer;
      this.#played = 0;
    } else if (what === 'clear') {
      this.#clear();
      this.#report();
    }
  }

  #clear() {
    this.#queue = [];
    this.#at = 0;
    this.#paused = false;
  }

  process(_inputs, [[channel]]) {
    for (let index = 0; index < channel.length; index += 1) channel[index] = this.#next();
    this.#since += channel.length;
    if (this.#since >= REPORT) this.#report();
    return true;
  }

  #next() {
    const target = this.#paused ? 0 : 1;
    this.#gain = Math.min(Math.max(this.#gain + (target ? 1 : -1) / FADE, 0), 1);
    if (!this.#queue.length || this.#gain === 0) {
      this.#idle += 1;
      return 0;
    }
    const sample = this.#queue[0][this.#at] * this.#gain;
    this.#at += 1;
    this.#played += 1;
    this.#idle = 0;
    this.#power += sample * sample;
    if (this.#at === this.#queue[0].length) {
      this.#queue.shift();
      this.#at = 0;
    }
    return sample;
  }

  #report() {
    const power = this.#power / Math.max(1, this.#since);
    this.port.postMessage({ answer: this.#answer, played: this.#played, idle: this.#idle, power });
    this.#since = 0;
    this.#power = 0;
  }
}

registerProcessor('loudspeaker', Loudspeaker);
