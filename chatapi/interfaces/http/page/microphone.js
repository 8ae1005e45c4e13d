/** The record button: tap to start and again to send, or hold while speaking; slide away or Esc to cancel. */

import { byId, showIcon } from './dom.js';
import { clock } from './durations.js';
import { Fault } from './faults.js';
import { Recorder } from './recorder.js';
import { t } from './texts.js';
import { Meter } from './waveform.js';

/** Shortest recording, in seconds. */
const SHORTEST = 0.3;
/** Longest tap, in seconds; a longer press is a hold. */
const TAP_SECONDS = 0.4;
/** Distance of a slide that cancels, in CSS pixels. */
const AWAY = 110;

export class Microphone {
  #button = byId('mic');
  #strip = byId('recording');
  #hint = byId('hint');
  #field = byId('field');
  #meter = new Meter(byId('meter'));
  #recorder = null;
  #opening = null;
  #pressed = null;
  #callbacks;
  #longest;

  /**
   * @param {object} callbacks
   * @param {() => void} callbacks.onbegin
   * @param {(recording: import('./recorder.js').Recording) => void} callbacks.onrecorded
   * @param {(fault: Fault) => void} callbacks.onfault
   * @param {(words: string) => void} callbacks.onstate  text for screen readers
   */
  constructor(callbacks) {
    this.#callbacks = callbacks;
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
    // A click without a pointer comes from a key or assistive technology; pointers are handled above.
    this.#button.addEventListener('click', (event) => event.detail === 0 && this.#toggle());
  }

  /** Sets the server's limit, in seconds. */
  set longest(seconds) {
    this.#longest = seconds;
    byId('limit').textContent = ` / ${clock(seconds)}`;
  }

  get recording() {
    return this.#recorder !== null || this.#opening !== null;
  }

  /** Discards the recording. */
  cancel() {
    if (!this.recording) return;
    this.#opening = null;
    this.#recorder?.cancel();
    this.#show(null);
    this.#callbacks.onstate(t('microphone.cancelled'));
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
    // Released before the microphone was open, or quickly: a tap, and the recording continues.
    else if (this.#recorder && this.#recorder.seconds >= TAP_SECONDS) this.#send();
    else if (this.recording) this.#hint.textContent = t('microphone.tapped');
  }

  #isAway(event) {
    return Math.hypot(event.clientX - this.#pressed.x, event.clientY - this.#pressed.y) > AWAY;
  }

  #toggle() {
    if (this.recording) this.#send();
    else this.#begin();
  }

  async #begin() {
    this.#callbacks.onbegin();
    const opening = Recorder.open({ onlevel: (level) => this.#onLevel(level), onlost: () => this.#lost() });
    this.#opening = opening;
    try {
      const recorder = await opening;
      if (this.#opening !== opening) {
        recorder.cancel();
        return;
      }
      this.#show(recorder);
      this.#callbacks.onstate(t('microphone.recording'));
    } catch (error) {
      if (this.#opening !== opening) return;
      this.#show(null);
      this.#callbacks.onfault(Fault.from(error));
    }
  }

  async #send() {
    const recorder = this.#recorder;
    // Still opening: a second press cancels.
    if (!recorder) return this.cancel();
    this.#show(null);
    const recording = await recorder.close();
    if (recording.samples.length < SHORTEST * recording.rate) return this.#callbacks.onfault(new Fault('too_short'));
    return this.#callbacks.onrecorded(recording);
  }

  #onLevel(level) {
    if (!this.#recorder) return;
    this.#meter.add(level);
    byId('clock').textContent = clock(this.#recorder.seconds);
    this.#strip.classList.toggle('ending', this.#recorder.seconds > this.#longest - 10);
    // Slightly below the limit, because the server checks it too.
    if (this.#recorder.seconds > this.#longest - 0.5) this.#send();
  }

  #lost() {
    this.cancel();
    this.#callbacks.onfault(new Fault('microphone_lost'));
  }

  #show(recorder) {
    this.#recorder = recorder;
    this.#opening = null;
    const on = recorder !== null;
    this.#hint.textContent = t(`microphone.${on ? (this.#pressed ? 'held' : 'tapped') : 'idle'}`);
    this.#field.hidden = on;
    this.#strip.hidden = !on;
    this.#strip.classList.remove('leaving', 'ending');
    this.#meter.clear();
    byId('clock').textContent = clock(0);
    this.#button.classList.toggle('on', on);
    this.#button.setAttribute('aria-label', t(on ? 'microphone.send' : 'talk.record'));
    showIcon(this.#button, on ? 'send' : 'mic');
    document.body.classList.toggle('recording', on);
  }
}
