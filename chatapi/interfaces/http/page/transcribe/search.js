/** The search in a transcript. */

import { button, element, icon } from '../dom.js';
import { t } from '../texts.js';
import { highlight, rangeOf } from './transcript.js';

/** Largest number of marked places. */
const MOST = 2000;

export class Search {
  #transcript;
  #field = element('input', { type: 'search', id: 'search', placeholder: t('transcribe.search'), 'aria-label': t('transcribe.search'), autocomplete: 'off' });
  #count = element('span', { class: 'count', role: 'status' });
  #found = [];
  #at = -1;

  /** @param {import('./transcript.js').Transcript} transcript */
  constructor(transcript) {
    this.#transcript = transcript;
    const next = this.#step(1, 'transcribe.next_match');
    const before = this.#step(-1, 'transcribe.previous_match');
    before.classList.add('up');
    this.element = element('div', { class: 'search' }, this.#field, this.#count, before, next);
    this.#field.addEventListener('input', () => this.#search());
    this.#field.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter') return;
      event.preventDefault();
      this.#go(event.shiftKey ? -1 : 1);
    });
    this.#show();
  }

  #step(by, key) {
    const made = button('', () => this.#go(by), { class: 'round', 'aria-label': t(key), title: t(key) });
    made.append(icon('chevron'));
    return made;
  }

  #search() {
    const wanted = this.#field.value.trim().toLocaleLowerCase();
    this.#found = [];
    this.#at = -1;
    for (const node of wanted ? this.#transcript.nodes : []) {
      const text = node.data.toLocaleLowerCase();
      // Some letters change their number of characters; then positions would be wrong.
      if (text.length !== node.data.length) continue;
      for (let at = text.indexOf(wanted); at >= 0 && this.#found.length < MOST; at = text.indexOf(wanted, at + wanted.length)) {
        this.#found.push({ node, range: [at, at + wanted.length] });
      }
    }
    highlight('found', this.#found.map(({ node, range }) => rangeOf(node, range)));
    if (this.#found.length) this.#go(1);
    else this.#show();
  }

  #go(by) {
    if (!this.#found.length) return;
    this.#at = (this.#at + by + this.#found.length) % this.#found.length;
    const { node, range } = this.#found[this.#at];
    this.#transcript.reveal(node, range);
    this.#show();
  }

  #show() {
    const now = this.#found[this.#at];
    highlight('found-now', now ? [rangeOf(now.node, now.range)] : []);
    const searched = this.#field.value.trim() !== '';
    this.#count.textContent = searched ? t('transcribe.matches', now ? this.#at + 1 : 0, this.#found.length) : '';
    for (const each of this.element.querySelectorAll('button')) each.hidden = !this.#found.length;
  }
}
