/** A live conversation: microphone, loudspeaker and connection, and what happens when one of them fails. */

import { Capture } from './capture.js';
import { Fault } from './faults.js';
import { Loudspeaker } from './loudspeaker.js';
import { loudness } from './loudness.js';
import { LiveTurns } from './live-turns.js';
import { preferences } from './preferences.js';
import { RATE, Realtime, unopened } from './realtime.js';
import { Resampler } from './resampler.js';

/** Milliseconds before each try to connect again. */
const TRIES = [300, 1000, 2000, 4000, 8000, 8000];
/** Milliseconds between two questions whether the models are loaded, and how often it is asked. */
const LOADING = 3000;
const LOADED = 300;
/** What may have passed at the next try, when it went on before. */
const PASSING = ['broken_off', 'not_connected', 'unreachable', 'no_websocket', 'too_many_sessions'];

/**
 * @typedef {'off'|'opening'|'connecting'|'warming'|'reconnecting'|'listening'|'hearing'|'thinking'|'speaking'|'paused'}
 *   State
 */

export class Live {
  #api;
  #thread;
  #told;
  #capture = null;
  #loudspeaker = null;
  #turns = null;
  #door = null;
  #muted = false;
  /** Changes with every conversation, so that what comes late for one that was left is seen. */
  #run = 0;
  #tries = 0;
  #loading = 0;
  #keyWasAsked = false;
  #wasLive = false;
  /** @type {State} */
  state = 'off';

  /**
   * @param {import('./api.js').Api} api
   * @param {import('./thread.js').Thread} thread
   * @param {object} told
   * @param {(state: State, detail: string) => void} told.onstate
   * @param {(level: number, mine: boolean) => void} told.onlevel  loudness, 0 to 1; mine: the microphone's
   * @param {(fault: Fault) => void} told.onfault  it goes on, unless the state is off
   * @param {() => void} told.onforgotten  the box no longer has the conversation
   * @param {(again: boolean) => Promise<boolean>} told.askKey
   */
  constructor(api, thread, told) {
    this.#api = api;
    this.#thread = thread;
    this.#told = told;
  }

  get on() {
    return this.state !== 'off';
  }

  set muted(on) {
    this.#muted = on;
    if (this.#capture) this.#capture.muted = on;
  }

  /** Call while handling a touch or a key. */
  async start() {
    if (this.on) return;
    const run = this.#run;
    this.#tries = this.#loading = 0;
    this.#keyWasAsked = this.#wasLive = this.#muted = false;
    this.#be('opening');
    try {
      const capture = await this.#opened(run);
      if (run !== this.#run) return capture.close();
      this.#capture = capture;
      this.#connect();
    } catch (error) {
      if (run === this.#run) this.#fail(Fault.from(error));
    }
  }

  /** Leave it; the conversation is kept. */
  end() {
    if (!this.on) return;
    this.#run += 1;
    this.#turns?.leave();
    this.#door?.close();
    this.#capture?.close();
    this.#loudspeaker?.close();
    this.#door = this.#capture = this.#loudspeaker = this.#turns = null;
    this.#be('off');
  }

  /** Call at every touch and key: some browsers let a page sound and hear only then. */
  wake() {
    this.#loudspeaker?.wake();
    this.#capture?.wake();
  }

  /** The microphone, once the loudspeaker is open as well. */
  async #opened(run) {
    Capture.check();
    const loudspeaker = new Loudspeaker(RATE, (progress) => {
      this.#told.onlevel(progress.level, false);
      this.#turns?.played(progress);
    });
    this.#loudspeaker = loudspeaker;
    this.#turns = new LiveTurns(this.#thread, loudspeaker, {
      onstate: (state) => this.#door?.ready && this.#be(state),
      onfault: this.#told.onfault,
      onconversation: (id) => { preferences.conversation = id; },
    });
    await loudspeaker.ready;
    let resampler = null;
    const capture = await Capture.open({
      onblock: (samples) => {
        resampler ??= new Resampler(capture.rate, RATE);
        this.#told.onlevel(loudness(samples), true);
        this.#door?.hear(resampler.feed(samples));
      },
      onlost: () => this.#fail(new Fault('microphone_lost')),
    }, RATE);
    if (run === this.#run && !loudspeaker.allowed) this.#told.onfault(new Fault('sound_blocked'));
    return capture;
  }

  #connect() {
    if (!this.#wasLive) this.#be('connecting');
    this.#door = new Realtime(preferences, {
      onready: () => {
        this.#tries = this.#loading = 0;
        this.#wasLive = true;
        this.#be('listening');
      },
      onevent: (event) => this.#turns.take(event),
      onclosed: (fault) => this.#lost(fault),
    });
    this.#turns.follow(this.#door);
  }

  async #lost(fault) {
    const run = this.#run;
    this.#door = null;
    this.#turns.lose();
    const reason = fault.code === 'not_connected' ? await unopened(this.#api) : fault;
    const again = run === this.#run && (await this.#mended(reason));
    if (run !== this.#run) return;
    if (again) this.#connect();
    else this.#fail(this.#wasLive && PASSING.includes(reason.code) ? new Fault('live_lost') : reason);
  }

  /** Whether to try again, now that what stood in the way was dealt with or waited for. */
  async #mended(fault) {
    if (fault.code === 'unauthorized') {
      const again = this.#keyWasAsked;
      this.#keyWasAsked = true;
      return this.#told.askKey(again);
    }
    if (fault.code === 'unknown_conversation') {
      this.#told.onforgotten();
      return true;
    }
    if (fault.code === 'not_ready' && this.#loading < LOADED) {
      this.#loading += 1;
      this.#be('warming');
      await passed(LOADING);
      return true;
    }
    if (!this.#wasLive || !PASSING.includes(fault.code) || this.#tries >= TRIES.length) return false;
    this.#tries += 1;
    this.#be('reconnecting', `${this.#tries} of ${TRIES.length}`);
    await passed(TRIES[this.#tries - 1]);
    return true;
  }

  #fail(fault) {
    this.end();
    this.#told.onfault(fault);
  }

  #be(state, detail = '') {
    if (state === this.state && !detail) return;
    this.state = state;
    this.#told.onstate(state, detail);
  }
}

function passed(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
