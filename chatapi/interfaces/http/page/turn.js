/** One turn: sends the question, waits and retries, and shows and plays the streamed answer. */

import { Fault } from './faults.js';
import { bytesOf, samplesOf } from './player.js';
import { t } from './texts.js';

/** Time without events before the page shows it, and before it times out, in milliseconds (the box: 120 s). */
const SLOW = 12_000;
const STALLED = 150_000;
/** Fault code -> longest total wait for a transient fault, in seconds. */
const LONGEST_WAIT = { not_ready: 900, conversation_busy: 150, default: 60 };

/**
 * @typedef {object} Parts
 * @property {import('./api.js').Api} api
 * @property {import('./player.js').Player} player
 * @property {() => import('./api.js').Question} question  called for every attempt: the conversation may have changed
 * @property {(again: boolean) => Promise<boolean>} askKey
 * @property {(id: string) => void} onconversation  called with the id of the conversation that has the turn
 * @property {() => void} onforgotten  called when the box no longer has the conversation
 * @property {(fault: Fault) => void} onfault
 */

export class Turn {
  #controller = new AbortController();
  #view;
  #answer;
  #parts;
  #playback = null;
  #timers = [];
  #sent = 0;
  #here = { text: null, sound: null };
  #waited = 0;
  #keyWasAsked = false;

  /**
   * @param {{setText: (text: string) => void}} view  the question's view
   * @param {import('./answer.js').Answer} answer
   * @param {Parts} parts
   */
  constructor(view, answer, parts) {
    this.#view = view;
    this.#answer = answer;
    this.#parts = parts;
  }

  /** Runs until the answer is complete and played, or stopped; a fault is shown and passed to `onfault`. */
  async run() {
    for (;;) {
      try {
        await this.#attempt();
        await this.#playback?.ended;
        return;
      } catch (error) {
        if (await this.#handleError(error)) return;
      } finally {
        this.#unwatch();
      }
    }
  }

  /** Stops playback and cancels the turn on the server. */
  stop() {
    this.#controller.abort();
    this.#playback?.stop();
  }

  async #attempt() {
    const { api, question } = this.#parts;
    const request = question();
    this.#sent = performance.now();
    this.#here = { text: null, sound: null };
    this.#answer.phase(t(request.recording ? 'talk.transcribing' : 'talk.thinking'));
    this.#watch();
    for await (const { name, data } of api.turn(request, this.#controller.signal)) {
      this.#watch();
      this.#handle(name, data);
    }
  }

  /** Handles an error, and returns whether the turn is over; otherwise it is retried. */
  async #handleError(error) {
    const reason = this.#controller.signal.reason;
    if (this.#controller.signal.aborted && !(reason instanceof Fault)) {
      this.#answer.stopped();
      return true;
    }
    const fault = reason instanceof Fault ? reason : Fault.from(error);
    if (await this.#recover(fault)) return this.#handleStop();
    this.#playback?.finish();
    this.#parts.onfault(fault);
    return true;
  }

  #handleStop() {
    if (!this.#controller.signal.aborted) return false;
    this.#answer.stopped();
    return true;
  }

  /** Handles the fault, and returns whether to retry. */
  async #recover(fault) {
    if (this.#answer.started) return false;
    if (fault.code === 'unauthorized') {
      const again = this.#keyWasAsked;
      this.#keyWasAsked = true;
      return this.#parts.askKey(again);
    }
    if (fault.code === 'unknown_conversation') {
      this.#parts.onforgotten();
      return true;
    }
    if (fault.retryAfter === null) return false;
    return this.#waitFor(fault);
  }

  /** Counts down in place of the answer. False when the longest wait is reached. */
  async #waitFor(fault) {
    this.#unwatch();
    const most = LONGEST_WAIT[fault.code] ?? LONGEST_WAIT.default;
    if (this.#waited >= most) return false;
    // A little longer every time, so that many pages do not retry at the same moment.
    const seconds = Math.ceil(Math.max(1, fault.retryAfter) + Math.min(this.#waited / 4, 10) + Math.random());
    for (let left = seconds; left > 0 && !this.#controller.signal.aborted; left -= 1) {
      this.#answer.waiting(fault, left);
      await this.#second();
    }
    this.#waited += seconds;
    return true;
  }

  #second() {
    return new Promise((resolve) => {
      this.#timers.push(setTimeout(resolve, 1000));
      this.#controller.signal.addEventListener('abort', resolve, { once: true });
    });
  }

  #handle(name, data) {
    if (name === 'transcript') {
      this.#view.setText(data.text);
      this.#answer.phase(t('talk.thinking'));
    } else if (name === 'delta') {
      this.#here.text ??= this.#elapsed();
      this.#answer.add(data.text);
    } else if (name === 'speech') {
      this.#play({ samples: samplesOf(bytesOf(data.audio)), rate: data.rate, text: data.text });
    } else if (name === 'end') {
      this.#playback?.finish();
      this.#answer.ended(data, this.#here);
      this.#parts.onconversation(data.conversation);
    }
  }

  #play(chunk) {
    this.#here.sound ??= this.#elapsed();
    if (!this.#playback) {
      this.#playback = this.#parts.player.begin((playing) => this.#answer.showPlaying(playing));
      this.#answer.playback = this.#playback;
    }
    this.#answer.addAudio(chunk);
    this.#playback.add(chunk);
  }

  #elapsed() {
    return (performance.now() - this.#sent) / 1000;
  }

  #watch() {
    this.#unwatch();
    this.#timers.push(
      setTimeout(() => this.#answer.phase(t('talk.still_working')), SLOW),
      setTimeout(() => this.#controller.abort(new Fault('silent')), STALLED),
    );
  }

  #unwatch() {
    this.#timers.forEach(clearTimeout);
    this.#timers = [];
  }
}
