/** The bar that plays a recording: play and pause, position, speed. */

import { button, element, icon, named, showIcon } from '../dom.js';
import { clock } from '../durations.js';
import { preferences } from '../preferences.js';
import { number, t } from '../texts.js';

const SPEEDS = [0.75, 1, 1.25, 1.5, 1.75, 2];
/** An address that fails sooner than this after it was asked for is not asked for again, in seconds. */
const AGAIN = 5;

export class AudioBar {
  #audio = element('audio', { preload: 'metadata' });
  #play = button('', () => this.toggle(), { class: 'round filled', id: 'play' });
  #position = element('input', { type: 'range', id: 'position', min: '0', step: '0.1', value: '0', 'aria-label': t('transcribe.position') });
  #time = element('span', { class: 'clock' });
  #speed = element('select', { id: 'speed', 'aria-label': t('transcribe.speed') }, ...SPEEDS.map((value) => element('option', { value: String(value) }, `${number(value, 2)}×`)));
  #duration;
  #address;
  #loadedAt = 0;
  #onposition;
  #frame = 0;

  /**
   * @param {number} duration  seconds
   * @param {() => Promise<string>} address  where the audio is; asked for again when it can no longer be read there
   * @param {(seconds: number, playing: boolean) => void} onposition
   */
  constructor(duration, address, onposition) {
    this.#duration = duration;
    this.#address = address;
    this.#onposition = onposition;
    this.#position.max = String(duration);
    this.#play.append(icon('play'));
    const back = this.#skipButton(-5, 'transcribe.back');
    const on = this.#skipButton(5, 'transcribe.forward');
    this.element = element('section', { class: 'audio-bar', 'aria-label': t('transcribe.playback') }, this.#audio, back, this.#play, on, this.#position, this.#time, this.#speed);
    this.#position.addEventListener('input', () => this.seek(Number(this.#position.value)));
    this.#speed.value = String(SPEEDS.includes(preferences.speed) ? preferences.speed : 1);
    this.#speed.addEventListener('change', () => {
      preferences.speed = Number(this.#speed.value);
      this.#audio.playbackRate = preferences.speed;
    });
    for (const changed of ['play', 'pause', 'ended']) this.#audio.addEventListener(changed, () => this.#changed());
    for (const moved of ['seeked', 'timeupdate', 'loadedmetadata']) this.#audio.addEventListener(moved, () => this.#show());
    this.#audio.addEventListener('error', () => this.#failed());
    this.#changed();
    this.#show();
  }

  /** Loads the audio from its address, and goes on where it was. */
  async load() {
    const { currentTime: seconds, paused } = this.#audio;
    this.#loadedAt = Date.now();
    this.#audio.src = await this.#address();
    this.#audio.defaultPlaybackRate = this.#audio.playbackRate = Number(this.#speed.value);
    if (seconds) this.seek(seconds, !paused);
  }

  close() {
    cancelAnimationFrame(this.#frame);
    this.#audio.pause();
    this.#loadedAt = Infinity;
    this.#audio.removeAttribute('src');
  }

  /** A link expires, and a connection breaks off; what fails at once is no audio that this browser plays. */
  #failed() {
    if (Date.now() - this.#loadedAt > 1000 * AGAIN) this.load().catch(() => {});
  }

  toggle() {
    if (this.#audio.paused) this.#audio.play().catch(() => {});
    else this.#audio.pause();
  }

  skip(seconds) {
    this.seek(this.#audio.currentTime + seconds);
  }

  /** @param {boolean} [play]  whether playback starts */
  seek(seconds, play = false) {
    this.#audio.currentTime = Math.min(this.#duration, Math.max(0, seconds));
    if (play) this.#audio.play().catch(() => {});
    this.#show();
  }

  #skipButton(seconds, key) {
    const visible = seconds < 0 ? `−${-seconds}` : `+${seconds}`;
    return button(visible, () => this.skip(seconds), { class: 'round skip-by', ...named(visible, t(key, Math.abs(seconds))) });
  }

  #changed() {
    const { paused } = this.#audio;
    showIcon(this.#play, paused ? 'play' : 'pause');
    const words = t(paused ? 'transcribe.play' : 'transcribe.pause_playback');
    this.#play.setAttribute('aria-label', words);
    this.#play.title = words;
    cancelAnimationFrame(this.#frame);
    if (!paused) this.#tick();
    this.#show();
  }

  /** Follows the playback at every frame: the events of an audio element come four times a second. */
  #tick() {
    this.#show();
    this.#frame = requestAnimationFrame(() => this.#tick());
  }

  #show() {
    const seconds = this.#audio.currentTime;
    this.#position.value = String(seconds);
    const time = `${clock(seconds)} / ${clock(this.#duration)}`;
    if (this.#time.textContent !== time) {
      this.#time.textContent = time;
      this.#position.setAttribute('aria-valuetext', time);
    }
    this.#onposition(seconds, !this.#audio.paused);
  }
}
