/** Polls whether the box is ready. */

import { Fault } from './faults.js';

/** Polling interval while the box is ready, in seconds: a box that is switched off must not look ready for long. */
const READY_INTERVAL = 5;
/** First and longest polling interval while the box is not ready, in seconds. */
const FIRST = 1;
const LONGEST = 5;

/** @typedef {'connecting'|'ready'|'warming'|'locked'|'offline'} State */

export class Readiness {
  #api;
  #onstate;
  #onwarnings;
  #warnings = '';
  #timer = 0;
  #pause = FIRST;
  /** @type {State} */
  state = 'connecting';

  /**
   * @param {import('./api.js').Api} api
   * @param {(state: State, before: State) => void} onstate  called on every change
   * @param {(codes: string[]) => void} onwarnings  called when the warnings change
   */
  constructor(api, onstate, onwarnings) {
    this.#api = api;
    this.#onstate = onstate;
    this.#onwarnings = onwarnings;
    document.addEventListener('visibilitychange', () => document.hidden || this.check());
    window.addEventListener('online', () => this.check());
    window.addEventListener('offline', () => this.#setState('offline'));
  }

  /** Polls now, and then repeatedly. */
  async check() {
    clearTimeout(this.#timer);
    const state = await this.#poll();
    this.#pause = state === 'ready' ? FIRST : Math.min(this.#pause * 1.6, LONGEST);
    clearTimeout(this.#timer);
    // A hidden page does not poll; it polls again when it becomes visible.
    this.#timer = setTimeout(() => document.hidden || this.check(), 1000 * (state === 'ready' ? READY_INTERVAL : this.#pause));
    this.#setState(state);
  }

  async #poll() {
    try {
      const { warnings = [] } = await this.#api.get('ready');
      this.#warn(warnings.map(({ code }) => String(code)));
      return 'ready';
    } catch (error) {
      const { code, status } = Fault.from(error);
      if (code === 'unauthorized') return 'locked';
      return status === 503 ? 'warming' : 'offline';
    }
  }

  #warn(codes) {
    const all = codes.join();
    if (all === this.#warnings) return;
    this.#warnings = all;
    this.#onwarnings(codes);
  }

  #setState(state) {
    if (state === this.state) return;
    const before = this.state;
    this.state = state;
    this.#onstate(state, before);
  }
}
