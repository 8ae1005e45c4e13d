/** One answer of a live conversation, from its first word to the last that is heard. */

import { Captions } from './captions.js';
import { Fault } from './faults.js';

export class LiveAnswer {
  #view;
  #captions;
  #response = null;
  #timings = null;
  #cut = false;
  #here = { text: null, sound: null };
  /** Samples that have been heard. */
  heard = 0;

  /**
   * @param {import('./answer.js').Answer} view
   * @param {{number: number, conversation: string, rate: number}} known  number: the loudspeaker's; rate: samples a second
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

  /** Somebody spoke against it, or the connection went away: no more of it is heard. */
  get broken() {
    return this.#cut;
  }

  get samples() {
    return this.#captions.samples;
  }

  /** Told to its end, and heard to its end or broken off. */
  get over() {
    return this.#timings !== null && (this.#cut || this.heard >= this.samples);
  }

  write(text) {
    this.#captions.write(text);
  }

  spoke(stretch) {
    this.#captions.spoke(stretch);
  }

  sound(samples) {
    this.#captions.sound(samples);
  }

  /** @param {number} seconds  from the last sound of the question to the first of the answer */
  sounds(seconds) {
    this.#here.sound = seconds;
    this.#view.speaking(true);
  }

  paused(on) {
    this.#view.speaking(!on);
  }

  /** @param {number} samples  that have been heard */
  hear(samples) {
    this.heard = samples;
    this.#captions.heard(samples);
  }

  /** @param {object} response  of `response.done` */
  done(response) {
    this.#response = response;
  }

  timed(timings) {
    this.#timings = timings;
  }

  cut() {
    if (this.#cut) return;
    this.#cut = true;
    this.#view.speaking(false);
    this.#captions.cut(this.heard);
  }

  /**
   * Nothing more comes: show where the time went, and how it ended.
   * @param {boolean} [lost]  the connection was
   */
  conclude(lost = false) {
    const details = this.#response?.status_details ?? {};
    const end = this.#timings && {
      timings: this.#timings,
      usage: { completion_tokens: this.#response?.usage?.output_tokens },
      finish_reason: details.reason === 'max_output_tokens' ? 'length' : 'stop',
    };
    this.#view.speaking(false);
    if (this.#cut || !end) return this.#view.interrupted(end, this.#here, lost);
    this.#captions.whole();
    this.#view.ended(end, this.#here);
    const { error } = details;
    return error && this.#view.failed(new Fault(error.code, { detail: error.message, status: 500 }), []);
  }
}
