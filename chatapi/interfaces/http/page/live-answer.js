/** One answer of a live conversation, from its first text to the end of its playback. */

import { Captions } from './captions.js';
import { Fault } from './faults.js';

export class LiveAnswer {
  #view;
  #captions;
  #response = null;
  #timings = null;
  #interrupted = false;
  #here = { text: null, sound: null };
  /** Samples that have been played. */
  played = 0;

  /**
   * @param {import('./answer.js').Answer} view
   * @param {{number: number, conversation: string, rate: number}} known  number: the loudspeaker's; rate: sample rate in hertz
   */
  constructor(view, { number, conversation, rate }) {
    this.#view = view;
    this.#captions = new Captions(view, rate);
    this.number = number;
    this.conversation = conversation;
    view.phase('Thinking');
  }

  get element() {
    return this.#view.element;
  }

  /** Whether a barge-in or a lost connection ended its playback. */
  get interrupted() {
    return this.#interrupted;
  }

  get samples() {
    return this.#captions.samples;
  }

  /** Whether the response is done, and its playback complete or interrupted. */
  get over() {
    return this.#timings !== null && (this.#interrupted || this.played >= this.samples);
  }

  write(text) {
    this.#captions.write(text);
  }

  addSpan(span) {
    this.#captions.addSpan(span);
  }

  addAudio(samples) {
    this.#captions.addAudio(samples);
  }

  /** @param {number} seconds  from the end of the user's speech to first audio */
  playbackStarted(seconds) {
    this.#here.sound = seconds;
    this.#view.speaking(true);
  }

  paused(on) {
    this.#view.speaking(!on);
  }

  /** @param {number} samples  that have been played */
  setPlayed(samples) {
    this.played = samples;
    this.#captions.showPlayed(samples);
  }

  /** @param {object} response  of `response.done` */
  done(response) {
    this.#response = response;
  }

  setTimings(timings) {
    this.#timings = timings;
  }

  interrupt() {
    if (this.#interrupted) return;
    this.#interrupted = true;
    this.#view.speaking(false);
    this.#captions.cut(this.played);
  }

  /**
   * Ends the answer: shows its timings and how it ended.
   * @param {boolean} [lost]  whether the connection was lost
   */
  conclude(lost = false) {
    const details = this.#response?.status_details ?? {};
    const end = this.#timings && {
      timings: this.#timings,
      usage: { completion_tokens: this.#response?.usage?.output_tokens },
      finish_reason: details.reason === 'max_output_tokens' ? 'length' : 'stop',
    };
    this.#view.speaking(false);
    if (this.#interrupted || !end) return this.#view.interrupted(end, this.#here, lost);
    this.#captions.complete();
    this.#view.ended(end, this.#here);
    const { error } = details;
    return error && this.#view.failed(new Fault(error.code, { detail: error.message, status: 500 }), []);
  }
}
