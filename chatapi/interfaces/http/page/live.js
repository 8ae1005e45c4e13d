/** A live conversation: microphone, loudspeaker and connection, and the recovery when one of them fails. */

import { Capture } from './capture.js';
import { Fault } from './faults.js';
import { Loudspeaker } from './loudspeaker.js';
import { loudness } from './loudness.js';
import { LiveTurns } from './live-turns.js';
import { preferences } from './preferences.js';
import { RATE, Realtime, connectionFault } from './realtime.js';
import { Resampler } from './resampler.js';

/** Delay before each attempt to reconnect, in milliseconds. */
const RETRY_DELAYS = [300, 1000, 2000, 4000, 8000, 8000];
/** Delay between attempts while the models load, in milliseconds, and the most attempts. */
const LOADING_DELAY = 3000;
const MAX_LOADING_ATTEMPTS = 300;
/** Faults that may be gone at the next attempt, after the conversation was live. */
const TRANSIENT = ['broken_off', 'not_connected', 'unreachable', 'no_websocket', 'too_many_sessions'];

/**
 * @typedef {'off'|'opening'|'connecting'|'warming'|'reconnecting'|'listening'|'hearing'|'thinking'|'speaking'|'paused'}
 *   State
 */

export class Live {
  #api;
  #thread;
  #callbacks;
  #capture = null;
  #loudspeaker = null;
  #turns = null;
  #connection = null;
  #muted = false;
  /** Changes with every conversation, to ignore late results of an ended one. */
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
   * @param {object} callbacks
   * @param {(state: State, detail: string) => void} callbacks.onstate
   * @param {(level: number, mine: boolean) => void} callbacks.onlevel  loudness, 0 to 1; mine: whether it is the microphone's
   * @param {(fault: Fault) => void} callbacks.onfault  the conversation continues, unless the state is off
   * @param {() => void} callbacks.onforgotten  called when the box no longer has the conversation
   * @param {(again: boolean) => Promise<boolean>} callbacks.askKey
   */
  constructor(api, thread, callbacks) {
    this.#api = api;
    this.#thread = thread;
    this.#callbacks = callbacks;
  }

  get on() {
    return this.state !== 'off';
  }

  set muted(on) {
    this.#muted = on;
    if (this.#capture) this.#capture.muted = on;
  }

  /** Starts it. Call while handling a pointer or key event. */
  async start() {
    if (this.on) return;
    const run = this.#run;
    this.#tries = this.#loading = 0;
    this.#keyWasAsked = this.#wasLive = this.#muted = false;
    this.#setState('opening');
    try {
      const capture = await this.#open(run);
      if (run !== this.#run) return capture.close();
      this.#capture = capture;
      this.#connect();
    } catch (error) {
      if (run === this.#run) this.#fail(Fault.from(error));
    }
  }

  /** Ends the live session; the conversation stays stored. */
  end() {
    if (!this.on) return;
    this.#run += 1;
    this.#turns?.leave();
    this.#connection?.close();
    this.#capture?.close();
    this.#loudspeaker?.close();
    this.#connection = this.#capture = this.#loudspeaker = this.#turns = null;
    this.#setState('off');
  }

  /** Resumes audio. Call on every pointer and key event: some browsers allow audio only then. */
  wake() {
    this.#loudspeaker?.wake();
    this.#capture?.wake();
  }

  /** Opens the loudspeaker, then the microphone. */
  async #open(run) {
    Capture.check();
    const loudspeaker = new Loudspeaker(RATE, (progress) => {
      this.#callbacks.onlevel(progress.level, false);
      this.#turns?.progress(progress);
    });
    this.#loudspeaker = loudspeaker;
    this.#turns = new LiveTurns(this.#thread, loudspeaker, {
      onstate: (state) => this.#connection?.ready && this.#setState(state),
      onfault: this.#callbacks.onfault,
      onconversation: (id) => { preferences.conversation = id; },
    });
    await loudspeaker.ready;
    let resampler = null;
    const capture = await Capture.open({
      onblock: (samples) => {
        resampler ??= new Resampler(capture.rate, RATE);
        this.#callbacks.onlevel(loudness(samples), true);
        this.#connection?.sendAudio(resampler.feed(samples));
      },
      onlost: () => this.#fail(new Fault('microphone_lost')),
    }, RATE);
    if (run === this.#run && !loudspeaker.allowed) this.#callbacks.onfault(new Fault('sound_blocked'));
    return capture;
  }

  #connect() {
    if (!this.#wasLive) this.#setState('connecting');
    this.#connection = new Realtime(preferences, {
      onready: () => {
        this.#tries = this.#loading = 0;
        this.#wasLive = true;
        this.#setState('listening');
      },
      onevent: (event) => this.#turns.handle(event),
      onclosed: (fault) => this.#lost(fault),
    });
    this.#turns.follow(this.#connection);
  }

  async #lost(fault) {
    const run = this.#run;
    this.#connection = null;
    this.#turns.lose();
    const reason = fault.code === 'not_connected' ? await connectionFault(this.#api) : fault;
    const again = run === this.#run && (await this.#recover(reason));
    if (run !== this.#run) return;
    if (again) this.#connect();
    else this.#fail(this.#wasLive && TRANSIENT.includes(reason.code) ? new Fault('live_lost') : reason);
  }

  /** Handles the fault, and returns whether to try again. */
  async #recover(fault) {
    if (fault.code === 'unauthorized') {
      const again = this.#keyWasAsked;
      this.#keyWasAsked = true;
      return this.#callbacks.askKey(again);
    }
    if (fault.code === 'unknown_conversation') {
      this.#callbacks.onforgotten();
      return true;
    }
    if (fault.code === 'not_ready' && this.#loading < MAX_LOADING_ATTEMPTS) {
      this.#loading += 1;
      this.#setState('warming');
      await sleep(LOADING_DELAY);
      return true;
    }
    if (!this.#wasLive || !TRANSIENT.includes(fault.code) || this.#tries >= RETRY_DELAYS.length) return false;
    this.#tries += 1;
    this.#setState('reconnecting', `${this.#tries} of ${RETRY_DELAYS.length}`);
    await sleep(RETRY_DELAYS[this.#tries - 1]);
    return true;
  }

  #fail(fault) {
    this.end();
    this.#callbacks.onfault(fault);
  }

  #setState(state, detail = '') {
    if (state === this.state && !detail) return;
    this.state = state;
    this.#callbacks.onstate(state, detail);
  }
}

function sleep(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
