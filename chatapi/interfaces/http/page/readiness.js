/** Whether the box is ready, asked again and again with patience. */

import { Fault } from './faults.js';

/** Seconds between questions while all is well: a box that is switched off must not look ready for long. */
const CALM = 5;
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
   * @param {(state: State, before: State) => void} onstate  told of every change
   * @param {(codes: string[]) => void} onwarnings  told of every change of what is not as it should be
   */
  constructor(api, onstate, onwarnings) {
    this.#api = api;
    this.#onstate = onstate;
    this.#onwarnings = onwarnings;
    document.addEventListener('visibilitychange', () => document.hidden || this.check());
    window.addEventListener('online', () => this.check());
    window.addEventListener('offline', () => this.#be('offline'));
  }

  /** Ask now, and from then on again and again. */
  async check() {
    clearTimeout(this.#timer);
    const state = await this.#asked();
    this.#pause = state === 'ready' ? FIRST : Math.min(this.#pause * 1.6, LONGEST);
    clearTimeout(this.#timer);
    // A page nobody looks at asks nothing; it does when it is looked at again.
    this.#timer = setTimeout(() => document.hidden || this.check(), 1000 * (state === 'ready' ? CALM : this.#pause));
    this.#be(state);
  }

  async #asked() {
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

  #be(state) {
    if (state === this.state) return;
    const before = this.state;
    this.state = state;
    this.#onstate(state, before);
  }
}
