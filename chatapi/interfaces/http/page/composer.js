/** Where questions are typed, and the switches around it. */

import { byId } from './dom.js';
import { preferences } from './preferences.js';

export class Composer {
  #prompt = byId('prompt');
  #send = byId('send');
  #stop = byId('stop');
  #onsend;

  /** @param {{onsend: (prompt: string) => void, onstop: () => void, onfull: () => void}} told */
  constructor({ onsend, onstop, onfull }) {
    this.#onsend = onsend;
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener('input', () => {
      this.#fit();
      // The browser cuts without a word what is pasted beyond the limit.
      if (this.#prompt.value.length >= this.#prompt.maxLength) onfull();
    });
    this.#prompt.addEventListener('keydown', (event) => {
      // While an input method composes, Enter chooses a word and is not ours.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#stop.addEventListener('click', () => {
      onstop();
      this.focus();
    });
    byId('speak').addEventListener('click', () => this.#speak(!preferences.speak));
    this.#speak(preferences.speak);
    this.#fit();
  }

  /** While an answer runs, an empty field offers to stop it. */
  busy(busy) {
    this.#running = busy;
    this.#fit();
  }

  #running = false;

  /** Characters the server takes. */
  set longest(characters) {
    this.#prompt.maxLength = characters;
  }

  /** A question that was refused, to be mended; what was typed meanwhile stays. */
  putBack(prompt) {
    if (this.#prompt.value.trim()) return;
    this.#prompt.value = prompt;
    this.#fit();
    this.focus();
  }

  /** On a touch screen this would push up the keyboard over the answer. */
  focus() {
    if (matchMedia('(pointer: fine)').matches) this.#prompt.focus();
  }

  #submit() {
    const prompt = this.#prompt.value.trim();
    if (!prompt) return;
    this.#prompt.value = '';
    this.#fit();
    this.#onsend(prompt);
  }

  #fit() {
    const empty = this.#prompt.value.trim() === '';
    this.#send.disabled = empty;
    this.#send.hidden = this.#running && empty;
    this.#stop.hidden = !this.#send.hidden;
    this.#prompt.style.height = 'auto';
    this.#prompt.style.height = `${this.#prompt.scrollHeight}px`;
  }

  #speak(on) {
    preferences.speak = on;
    byId('speak').setAttribute('aria-checked', String(on));
  }
}
