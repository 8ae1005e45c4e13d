/** A transcript: paragraphs in which the spoken word is highlighted, and a click on a word plays from there. */

import { button, element } from '../dom.js';
import { clock } from '../durations.js';
import { t } from '../texts.js';

/** A paragraph ends where the speaker changes, at a pause of so many seconds, or at the first sentence behind so many characters. */
const PAUSE = 2.5;
const LONG = 450;
const SENTENCE_END = /[.!?…。！？]["'”’)]?$/;
const COLOURS = 6;

/**
 * @typedef {object} Word  a part of the text with times: a word, or a whole segment where words have none
 * @property {number} from   seconds
 * @property {number} until
 * @property {Text} node
 * @property {[number, number]} range  its characters in the node
 */

export class Transcript {
  #callbacks;
  #labels = [];
  #names = new Map();
  /** @type {Word[]} in the order of time */
  #words = [];
  #current = null;
  #follows = true;
  /** The text nodes of the paragraphs, in order. @type {Text[]} */
  nodes = [];

  /**
   * @param {object} document  the JSON result of the job
   * @param {object} callbacks
   * @param {(seconds: number) => void} callbacks.onseek
   * @param {(label: string, name: string) => void} callbacks.onspeaker  called to rename a speaker
   * @param {HTMLElement} callbacks.scroller
   */
  constructor({ segments, gaps }, callbacks) {
    this.#callbacks = callbacks;
    for (const { speaker, speaker_label: label } of segments) {
      if (!speaker) continue;
      this.#names.set(label || speaker, speaker);
    }
    this.#labels = [...this.#names.keys()];
    this.element = element('div', { class: 'transcript' });
    const parts = [...paragraphs(segments).map((each) => ({ start: each[0].start, made: () => this.#paragraph(each) })), ...gaps.map((gap) => ({ start: gap.start, made: () => this.#gap(gap) }))];
    for (const { made } of parts.sort((a, b) => a.start - b.start)) this.element.append(made());
    this.element.addEventListener('click', (event) => this.#clicked(event));
    for (const moved of ['wheel', 'touchmove']) callbacks.scroller.addEventListener(moved, () => { this.#follows = false; }, { passive: true });
  }

  /** The names of all speakers. */
  get speakers() {
    return [...new Set(this.#names.values())];
  }

  close() {
    highlight('spoken', []);
    highlight('found', []);
    highlight('found-now', []);
  }

  /** Highlights the word at a time. */
  show(seconds, playing) {
    const word = this.#wordAt(seconds);
    if (word === this.#current) return;
    this.#current = word;
    highlight('spoken', word ? [rangeOf(word.node, word.range)] : []);
    this.element.querySelector('.spoken')?.classList.remove('spoken');
    word?.node.parentElement.closest('.paragraph').classList.add('spoken');
    if (word && playing && this.#follows) this.reveal(word.node, word.range);
  }

  /** Scrolls until a part of the text is in view. */
  reveal(node, range) {
    const view = this.#callbacks.scroller.getBoundingClientRect();
    const { top, bottom } = rangeOf(node, range).getBoundingClientRect();
    if (top > view.top + 40 && bottom < view.bottom - 60) return;
    this.#callbacks.scroller.scrollBy({ top: top - view.top - view.height / 3, behavior: 'smooth' });
  }

  /** @param {Object<string, string>} names  label -> name */
  rename(names) {
    for (const label of this.#labels) this.#names.set(label, names[label] ?? label);
    for (const each of this.element.querySelectorAll('.speaker')) this.#showName(each);
  }

  #paragraph(segments) {
    const [{ start, speaker = '', speaker_label: label }] = segments;
    const node = document.createTextNode('');
    this.nodes.push(node);
    for (const segment of segments) this.#append(node, segment);
    const time = button(clock(start), () => this.#seek(start), { class: 'time', 'aria-label': t('transcribe.play_from', clock(start)) });
    const head = element('div', { class: 'paragraph-head' }, time);
    if (speaker) {
      const key = label || speaker;
      const chip = button('', () => this.#callbacks.onspeaker(key, this.#names.get(key)), { class: 'speaker', 'data-label': key, 'data-colour': String(this.#labels.indexOf(key) % COLOURS) });
      this.#showName(chip);
      head.prepend(chip);
    }
    return element('section', { class: 'paragraph' }, head, element('p', { class: 'words' }, node));
  }

  #showName(chip) {
    const name = this.#names.get(chip.dataset.label);
    chip.textContent = name === chip.dataset.label ? t('transcribe.speaker', name) : name;
    chip.title = t('transcribe.name_speaker', chip.dataset.label);
  }

  /** Appends the text of a segment, and finds its words in it. */
  #append(node, { text, start, end, language, words = [] }) {
    if (node.data && !['zh', 'ja', 'yue', 'th', 'lo', 'my', 'km', 'bo'].includes(language)) node.appendData(' ');
    const from = node.data.length;
    node.appendData(text);
    let at = 0;
    for (const { word, start: begun, end: done } of words) {
      const found = text.indexOf(word.trim(), at);
      if (found < 0) continue;
      at = found + word.trim().length;
      this.#words.push({ from: begun, until: done, node, range: [from + found, from + at] });
    }
    if (!words.length) this.#words.push({ from: start, until: end, node, range: [from, from + text.length] });
  }

  #gap({ start, end }) {
    const words = t('transcribe.gap', clock(start), clock(end));
    return element('p', { class: 'gap' }, button(words, () => this.#seek(start), { class: 'time' }));
  }

  #seek(seconds) {
    this.#follows = true;
    this.#callbacks.onseek(seconds);
  }

  #clicked(event) {
    // A selection is for copying.
    if (!event.target.closest('.words') || !getSelection().isCollapsed) return;
    const place = caretAt(event.clientX, event.clientY);
    const word = place && this.#words.find(({ node, range }) => node === place.node && place.offset >= range[0] && place.offset <= range[1]);
    if (word) this.#seek(word.from);
  }

  /** The last word that has begun, unless it ended long ago. */
  #wordAt(seconds) {
    let [low, high] = [0, this.#words.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#words[middle].from <= seconds + 0.02) low = middle + 1;
      else high = middle;
    }
    const word = this.#words[low - 1];
    return word && seconds < word.until + 1 ? word : null;
  }
}

/** The segments, joined to paragraphs. */
function paragraphs(segments) {
  const found = [];
  let length = 0;
  for (const segment of segments) {
    const before = found.at(-1)?.at(-1);
    const long = length > LONG && SENTENCE_END.test(before?.text ?? '');
    if (!before || before.speaker !== segment.speaker || segment.start - before.end > PAUSE || long) {
      found.push([]);
      length = 0;
    }
    found.at(-1).push(segment);
    length += segment.text.length;
  }
  return found;
}

export function rangeOf(node, [from, until]) {
  const range = document.createRange();
  range.setStart(node, from);
  range.setEnd(node, until);
  return range;
}

/** Shows ranges in the style `::highlight(name)`; a browser without it shows the paragraph alone. */
export function highlight(name, ranges) {
  if (globalThis.CSS?.highlights && globalThis.Highlight) CSS.highlights.set(name, new Highlight(...ranges));
}

/** The text node and character under a point. */
function caretAt(x, y) {
  if (document.caretPositionFromPoint) {
    const place = document.caretPositionFromPoint(x, y);
    return place && { node: place.offsetNode, offset: place.offset };
  }
  const range = document.caretRangeFromPoint?.(x, y);
  return range && { node: range.startContainer, offset: range.startOffset };
}
