/** The microphone button: tap to begin and again to send, or hold while speaking; slide away or Esc to cancel. */

import { byId, showIcon } from './dom.js';
import { clock } from './durations.js';
import { Fault } from './faults.js';
import { Recorder } from './recorder.js';
import { Meter } from './waveform.js';

const SHORTEST = 0.3;
/** A press shorter than this is a tap. */
const TAP_SECONDS = 0.4;
/** How far a finger slides, in CSS pixels, to cancel. */
const AWAY = 110;
const HINTS = {
  idle: 'Tap or hold to speak',
  held: 'Let go to send, slide away to cancel',
  tapped: 'Tap again to send',
};

export class Microphone {
  #button = byId('mic');
  #strip = byId('recording');
  #hint = byId('hint');
  #field = byId('field');
  #meter = new Meter(byId('meter'));
  #recorder = null;
  #opening = null;
  #pressed = null;
  #told;
  #longest;

  /**
   * @param {object} told
   * @param {() => void} told.onbegin
   * @param {(recording: import('./recorder.js').Recording) => void} told.onrecorded
   * @param {(fault: Fault) => void} told.onfault
   * @param {(words: string) => void} told.onstate  for those who cannot see it
   */
  constructor(told) {
    this.#told = told;
    this.longest = 120;
    byId('cancel').addEventListener('click', () => {
      this.cancel();
      this.#button.focus();
    });
    this.#button.addEventListener('pointerdown', (event) => this.#down(event));
    this.#button.addEventListener('pointermove', (event) => this.#moved(event));
    this.#button.addEventListener('pointerup', (event) => this.#up(event));
    this.#button.addEventListener('pointercancel', () => { this.#pressed = null; });
    this.#button.addEventListener('contextmenu', (event) => event.preventDefault());
    // A click that no pointer made comes from a key or from assistive technology; pointers are handled above.
    this.#button.addEventListener('click', (event) => event.detail === 0 && this.#toggle());
  }

  /** Seconds the server takes. */
  set longest(seconds) {
    this.#longest = seconds;
    byId('limit').textContent = ` / ${clock(seconds)}`;
  }

  get recording() {
    return this.#recorder !== null || this.#opening !== null;
  }

  /** Throw away what was recorded. */
  cancel() {
    if (!this.recording) return;
    this.#opening = null;
    this.#recorder?.cancel();
    this.#show(null);
    this.#told.onstate('Recording cancelled');
  }

  #down(event) {
    if (event.button !== 0) return;
    if (this.recording) {
      this.#pressed = null;
      this.#send();
      return;
    }
    this.#button.setPointerCapture(event.pointerId);
    this.#pressed = { x: event.clientX, y: event.clientY };
    this.#begin();
  }

  #moved(event) {
    if (this.#pressed) this.#strip.classList.toggle('leaving', this.#isAway(event));
  }

  #up(event) {
    this.#recorder?.wake();
    if (!this.#pressed) return;
    const away = this.#isAway(event);
    this.#pressed = null;
    this.#strip.classList.remove('leaving');
    if (away) this.cancel();
    // Released before the microphone was open, or after a moment: a tap, and it goes on recording.
    else if (this.#recorder && this.#recorder.seconds >= TAP_SECONDS) this.#send();
    else if (this.recording) this.#hint.textContent = HINTS.tapped;
  }

  #isAway(event) {
    return Math.hypot(event.clientX - this.#pressed.x, event.clientY - this.#pressed.y) > AWAY;
  }

  #toggle() {
    if (this.recording) this.#send();
    else this.#begin();
  }

  async #begin() {
    this.#told.onbegin();
    const opening = Recorder.open({ onlevel: (level) => this.#heard(level), onlost: () => this.#lost() });
    this.#opening = opening;
    try {
      const recorder = await opening;
      if (this.#opening !== opening) {
        recorder.cancel();
        return;
      }
      this.#show(recorder);
      this.#told.onstate('Recording');
    } catch (error) {
      if (this.#opening !== opening) return;
      this.#show(null);
      this.#told.onfault(Fault.from(error));
    }
  }

  async #send() {
    const recorder = this.#recorder;
    // Still being opened: whoever presses again then wants to leave.
    if (!recorder) return this.cancel();
    this.#show(null);
    const recording = await recorder.close();
    if (recording.samples.length < SHORTEST * recording.rate) return this.#told.onfault(new Fault('too_short'));
    return this.#told.onrecorded(recording);
  }

  #heard(level) {
    if (!this.#recorder) return;
    this.#meter.add(level);
    byId('clock').textContent = clock(this.#recorder.seconds);
    this.#strip.classList.toggle('ending', this.#recorder.seconds > this.#longest - 10);
    // A little under the limit: the server counts too.
    if (this.#recorder.seconds > this.#longest - 0.5) this.#send();
  }

  #lost() {
    this.cancel();
    this.#told.onfault(new Fault('microphone_lost'));
  }

  #show(recorder) {
    this.#recorder = recorder;
    this.#opening = null;
    const on = recorder !== null;
    this.#hint.textContent = HINTS[on ? (this.#pressed ? 'held' : 'tapped') : 'idle'];
    this.#field.hidden = on;
    this.#strip.hidden = !on;
    this.#strip.classList.remove('leaving', 'ending');
    this.#meter.clear();
    byId('clock').textContent = clock(0);
    this.#button.classList.toggle('on', on);
    this.#button.setAttribute('aria-label', on ? 'Send the recording' : 'Record a question');
    showIcon(this.#button, on ? 'send' : 'mic');
    document.body.classList.toggle('recording', on);
  }
}
