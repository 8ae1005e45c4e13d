/** One question on its way: asked, waited for, tried again, shown and sounded as the answer comes. */

import { Fault } from './faults.js';
import { samplesOf } from './player.js';

/** Milliseconds without news before the page says so, and before it gives up (the box itself does after 120 s). */
const SLOW = 12_000;
const STALLED = 150_000;
/** Seconds a fault that passes by itself is waited for in all, by its code. */
const PATIENCE = { not_ready: 900, conversation_busy: 150, default: 60 };

/**
 * @typedef {object} Parts
 * @property {import('./api.js').Api} api
 * @property {import('./player.js').Player} player
 * @property {() => import('./api.js').Question} question  made anew for every try: the conversation may have changed
 * @property {(again: boolean) => Promise<boolean>} askKey
 * @property {(id: string) => void} onconversation  the box has kept the answer there
 * @property {() => void} onforgotten  the box no longer has the conversation
 * @property {(fault: Fault) => void} onfault
 */

export class Turn {
  #controller = new AbortController();
  #asked;
  #answer;
  #parts;
  #playback = null;
  #timers = [];
  #sent = 0;
  #here = { text: null, sound: null };
  #waited = 0;
  #keyWasAsked = false;

  /**
   * @param {{say: (text: string) => void}} asked  the question's view
   * @param {import('./answer.js').Answer} answer
   * @param {Parts} parts
   */
  constructor(asked, answer, parts) {
    this.#asked = asked;
    this.#answer = answer;
    this.#parts = parts;
  }

  /** Whether it was answered whole and heard to its end, or stopped; what failed is shown and handed to `onfault`. */
  async run() {
    for (;;) {
      try {
        await this.#once();
        await this.#playback?.ended;
        return;
      } catch (error) {
        if (await this.#settled(error)) return;
      } finally {
        this.#unwatch();
      }
    }
  }

  /** Silence it, and let the server stop its engines. */
  stop() {
    this.#controller.abort();
    this.#playback?.stop();
  }

  async #once() {
    const { api, question } = this.#parts;
    const asked = question();
    this.#sent = performance.now();
    this.#here = { text: null, sound: null };
    this.#answer.phase(asked.recording ? 'Listening to what you said' : 'Thinking');
    this.#watch();
    for await (const { name, data } of api.turn(asked, this.#controller.signal)) {
      this.#watch();
      this.#take(name, data);
    }
  }

  /** Whether the turn is over after an error; if not, it is tried again. */
  async #settled(error) {
    const reason = this.#controller.signal.reason;
    if (this.#controller.signal.aborted && !(reason instanceof Fault)) {
      this.#answer.stopped();
      return true;
    }
    const fault = reason instanceof Fault ? reason : Fault.from(error);
    if (await this.#mended(fault)) return this.#settledIfStopped();
    this.#playback?.finish();
    this.#parts.onfault(fault);
    return true;
  }

  #settledIfStopped() {
    if (!this.#controller.signal.aborted) return false;
    this.#answer.stopped();
    return true;
  }

  /** Whether trying again makes sense, now that what stood in the way was dealt with. */
  async #mended(fault) {
    if (this.#answer.begun) return false;
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
    return this.#waitedFor(fault);
  }

  /** Count down in the answer's place. False when it has been waited for long enough. */
  async #waitedFor(fault) {
    this.#unwatch();
    const most = PATIENCE[fault.code] ?? PATIENCE.default;
    if (this.#waited >= most) return false;
    // A little longer every time, so that a crowd of pages does not come back all at once.
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

  #take(name, data) {
    if (name === 'transcript') {
      this.#asked.say(data.text);
      this.#answer.phase('Thinking');
    } else if (name === 'delta') {
      this.#here.text ??= this.#elapsed();
      this.#answer.add(data.text);
    } else if (name === 'speech') {
      this.#speak({ samples: samplesOf(data.audio), rate: data.rate, text: data.text });
    } else if (name === 'end') {
      this.#playback?.finish();
      this.#answer.ended(data, this.#here);
      this.#parts.onconversation(data.conversation);
    }
  }

  #speak(piece) {
    this.#here.sound ??= this.#elapsed();
    if (!this.#playback) {
      this.#playback = this.#parts.player.begin((heard) => this.#answer.heard(heard));
      this.#answer.playback = this.#playback;
    }
    this.#answer.sound(piece);
    this.#playback.add(piece);
  }

  #elapsed() {
    return (performance.now() - this.#sent) / 1000;
  }

  #watch() {
    this.#unwatch();
    this.#timers.push(
      setTimeout(() => this.#answer.phase('Still at it; you can stop it at any time'), SLOW),
      setTimeout(() => this.#controller.abort(new Fault('silent')), STALLED),
    );
  }

  #unwatch() {
    this.#timers.forEach(clearTimeout);
    this.#timers = [];
  }
}
