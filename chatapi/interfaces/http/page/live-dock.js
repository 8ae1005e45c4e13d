/** The dock of a live conversation: state, level meter, mute and end. */

import { byId, showIcon } from './dom.js';
import { t } from './texts.js';
import { Meter } from './waveform.js';

/** States in which the microphone may be muted. */
const MUTED = ['listening'];

export class LiveDock {
  #dock = byId('live');
  #talk = byId('talk');
  #mute = byId('mute');
  #words = byId('live-state');
  #meter = new Meter(byId('live-meter'));
  #state = 'off';
  #detail = '';
  #muted = false;
  #callbacks;

  /** @param {{onstart: () => void, onend: () => void, onmute: (on: boolean) => void}} callbacks */
  constructor(callbacks) {
    this.#callbacks = callbacks;
    this.#talk.addEventListener('click', callbacks.onstart);
    byId('live-end').addEventListener('click', callbacks.onend);
    this.#mute.addEventListener('click', () => this.#toggle());
  }

  /**
   * @param {import('./live.js').State} state
   * @param {string} detail  the number of the attempt
   */
  show(state, detail) {
    const was = this.#state;
    this.#state = state;
    this.#detail = detail;
    const on = state !== 'off';
    if ((was !== 'off') !== on) this.#open(on);
    this.#showState();
  }

  /** @param {number} level  loudness, 0 to 1; mine: whether it is the microphone's */
  addLevel(level, mine) {
    // One meter for both: it shows whoever speaks.
    if (mine !== (this.#state === 'speaking')) this.#meter.add(level);
  }

  #open(on) {
    document.body.classList.toggle('talking', on);
    this.#dock.hidden = !on;
    byId('composer').hidden = on;
    byId('under').hidden = on;
    this.#meter.clear();
    this.#muted = false;
    this.#showMute();
    if (on) this.#dock.focus();
    else this.#talk.focus();
  }

  #toggle() {
    this.#muted = !this.#muted;
    this.#callbacks.onmute(this.#muted);
    this.#showMute();
    this.#showState();
  }

  #showMute() {
    this.#mute.setAttribute('aria-pressed', String(this.#muted));
    this.#mute.title = t(this.#muted ? 'talk.unmute' : 'talk.mute');
    showIcon(this.#mute, this.#muted ? 'mic-off' : 'mic');
  }

  #showState() {
    const state = this.#muted && MUTED.includes(this.#state) ? 'muted' : this.#state;
    this.#dock.dataset.state = state;
    const words = state === 'off' ? '' : t(`live.${state}`);
    const text = this.#detail ? `${words} (${this.#detail})` : words;
    if (this.#words.textContent !== text) this.#words.textContent = text;
  }
}
