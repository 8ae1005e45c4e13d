/** The text field for questions, and its buttons. */

import { byId } from './dom.js';
import { preferences } from './preferences.js';

export class Composer {
  #prompt = byId('prompt');
  #send = byId('send');
  #stop = byId('stop');
  #onsend;

  /** @param {{onsend: (prompt: string) => void, onstop: () => void, onfull: () => void}} callbacks */
  constructor({ onsend, onstop, onfull }) {
    this.#onsend = onsend;
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener('input', () => {
      this.#fit();
      // The browser silently truncates text that is pasted beyond the limit.
      if (this.#prompt.value.length >= this.#prompt.maxLength) onfull();
    });
    this.#prompt.addEventListener('keydown', (event) => {
      // While an input method composes, Enter selects a candidate.
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

  /** While a turn runs, the empty field shows the stop button. */
  busy(busy) {
    this.#running = busy;
    this.#fit();
  }

  #running = false;

  /** Sets the server's limit, in characters. */
  set longest(characters) {
    this.#prompt.maxLength = characters;
  }

  /** Puts a rejected question back for editing, unless the field has new text. */
  putBack(prompt) {
    if (this.#prompt.value.trim()) return;
    this.#prompt.value = prompt;
    this.#fit();
    this.focus();
  }

  /** Focuses the field, except on touch screens, where the keyboard would cover the answer. */
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
