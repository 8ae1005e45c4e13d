/** A round button that records a word: hold it while speaking, or tap it and tap again. */

import { element, icon, showIcon } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { WordRecorder } from './word-recorder.js';

/** Longest tap, in seconds; a longer press is a hold. */
const TAP_SECONDS = 0.35;
/** Longest recording, in seconds: a sample has one second of speech. */
const LONGEST = 2.5;
const SHORTEST = 0.25;

export class HoldButton {
  root;
  #button;
  #words;
  #hint;
  #pressed = 0;
  #busy = false;
  #recorder;
  #onrecorded;
  #onfault;

  /**
   * @param {{words: string, hint: string}} texts
   * @param {(recording: import('../recorder.js').Recording) => Promise<void>} onrecorded
   * @param {(fault: Fault) => void} onfault
   */
  constructor({ words, hint }, onrecorded, onfault) {
    this.#words = words;
    this.#onrecorded = onrecorded;
    this.#onfault = onfault;
    this.#recorder = new WordRecorder({ onlevel: (level) => this.#show(level), onlost: () => this.#lost() });
    this.#button = element('button', { type: 'button', class: 'mic commands-hold', 'aria-label': words }, icon('mic'));
    this.#hint = element('p', { class: 'commands-soft' }, hint);
    this.root = element('div', { class: 'commands-record' }, this.#button, this.#hint);
    this.#button.addEventListener('pointerdown', (event) => event.button === 0 && this.#down(event));
    this.#button.addEventListener('pointerup', () => this.#up());
    this.#button.addEventListener('pointercancel', () => this.#up());
    this.#button.addEventListener('contextmenu', (event) => event.preventDefault());
    // A click without a pointer comes from a key or assistive technology.
    this.#button.addEventListener('click', (event) => event.detail === 0 && this.#toggle());
  }

  set hint(words) {
    this.#hint.textContent = words;
  }

  set disabled(on) {
    this.#button.disabled = on;
  }

  close() {
    this.#recorder.close();
    this.#state(false);
  }

  #down(event) {
    this.#button.setPointerCapture(event.pointerId);
    if (this.#recorder.recording) {
      this.#pressed = 0;
      this.#finish();
      return;
    }
    this.#pressed = event.timeStamp;
    this.#begin();
  }

  #up() {
    if (!this.#pressed) return;
    const held = (performance.now() - this.#pressed) / 1000;
    this.#pressed = 0;
    // A tap, or released before the microphone was open: the recording goes on until the next tap.
    if (held > TAP_SECONDS && this.#recorder.recording) this.#finish();
  }

  #toggle() {
    if (this.#recorder.recording) this.#finish();
    else this.#begin();
  }

  async #begin() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await this.#recorder.begin();
      this.#state(true);
    } catch (error) {
      this.#onfault(Fault.from(error));
    } finally {
      this.#busy = false;
    }
  }

  async #finish() {
    const recording = this.#recorder.end();
    this.#state(false);
    if (recording.samples.length < SHORTEST * recording.rate) {
      this.#onfault(new Fault('too_short'));
      return;
    }
    this.#button.disabled = true;
    try {
      await this.#onrecorded(recording);
    } finally {
      this.#button.disabled = false;
    }
  }

  #lost() {
    this.#state(false);
    this.#onfault(new Fault('microphone_lost'));
  }

  #show(level) {
    this.#button.style.setProperty('--level', String(level));
    if (this.#recorder.seconds > LONGEST) this.#finish();
  }

  #state(on) {
    this.#button.classList.toggle('on', on);
    this.#button.setAttribute('aria-pressed', String(on));
    this.#button.setAttribute('aria-label', on ? t('commands.recording') : this.#words);
    showIcon(this.#button, on ? 'stop' : 'mic');
  }
}
