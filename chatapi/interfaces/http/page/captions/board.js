/** Captions, large: lines as they come, partial text below them, and how they look. */

import { button, element, named } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { captionEvents } from './requests.js';

/** Most lines that are shown; the oldest is removed. */
const MOST_LINES = 2000;
const SIZES = [1.25, 1.75, 2.5, 3.5, 5, 7];
const COLOURS = ['page', 'dark', 'light', 'contrast'];
const STORED = 'captions';
/** Distance from the end, in pixels, up to which new lines scroll into view. */
const NEAR = 40;
/** Number of colours of speaker labels, in captions.css. */
const SPEAKERS = 6;

export class CaptionBoard {
  #frame;
  #id;
  #look = stored();
  #lines = element('ol', { class: 'captions-lines' });
  #partial = element('p', { class: 'captions-partial', 'aria-hidden': 'true' });
  #state = element('p', { class: 'captions-status', role: 'status' });
  #board = element('section', { class: 'captions-board', 'aria-label': t('captions.title'), tabindex: '0' });
  #down;
  #speakers = [];
  #follows = true;

  /** @param {import('../frame.js').Mount} frame */
  constructor(root, frame, id) {
    this.#frame = frame;
    this.#id = id;
    this.#lines.setAttribute('aria-live', 'polite');
    this.#down = button(t('captions.newest'), () => this.#toEnd(), { class: 'captions-newest', hidden: '' });
    this.#board.append(this.#lines, this.#partial);
    this.#board.addEventListener('scroll', () => this.#scrolled());
    const whole = element('div', { class: 'captions-whole' }, this.#controls(), this.#board, this.#down, this.#state);
    root.replaceChildren(whole);
    this.#whole = whole;
    this.#apply();
    this.#watch().catch((error) => {
      if (!frame.signal.aborted) frame.notice(Fault.from(error));
    });
  }

  #whole;

  close() {
    if (document.fullscreenElement === this.#whole) document.exitFullscreen();
  }

  #controls() {
    const sized = (words, label, step) => button(words, () => this.#resize(step), named(words, t(label)));
    const colours = element('select', { 'aria-label': t('captions.colours') },
      ...COLOURS.map((each) => element('option', { value: each }, t(`captions.colours_${each}`))));
    colours.value = this.#look.colours;
    colours.addEventListener('change', () => this.#change({ colours: colours.value }));
    const times = button(t('captions.times'), () => {
      this.#change({ times: !this.#look.times });
      times.setAttribute('aria-pressed', String(this.#look.times));
    }, { 'aria-pressed': String(this.#look.times) });
    const back = element('a', { href: '#/captions', class: 'captions-back' }, t('captions.all'));
    return element('div', { class: 'captions-controls', role: 'toolbar', 'aria-label': t('captions.look') }, back,
      sized('A−', 'captions.smaller', -1), sized('A+', 'captions.larger', 1), colours, times,
      button(t('captions.full'), () => this.#toggleFull()));
  }

  async #watch() {
    const connection = (connected) => { this.#state.textContent = connected ? '' : t('captions.connecting'); };
    for await (const { name, data } of captionEvents(this.#id, this.#frame.signal, connection)) {
      if (name === 'line') this.#add(data);
      else if (name === 'partial') this.#show(data.text);
      else if (name === 'gap') this.#lines.append(element('li', { class: 'captions-gap' }, t('captions.gap')));
      else if (name === 'state') this.#state.textContent = data.state === 'live' ? '' : t(`captions.${data.state}`);
      else if (name === 'end') this.#end(data);
    }
  }

  #add({ start, text, speaker }) {
    const line = element('li', {}, element('time', {}, clock(start)));
    if (speaker) {
      if (!this.#speakers.includes(speaker)) this.#speakers.push(speaker);
      const colour = this.#speakers.indexOf(speaker) % SPEAKERS;
      line.append(element('b', { class: `captions-speaker captions-speaker-${colour}` }, speaker), ' ');
    }
    line.append(text);
    this.#lines.append(line);
    while (this.#lines.children.length > MOST_LINES) this.#lines.firstElementChild.remove();
    this.#show('');
  }

  #show(partial) {
    this.#partial.textContent = partial;
    if (this.#follows) this.#toEnd();
  }

  #end({ state, failure }) {
    this.#show('');
    this.#state.textContent = failure ? `${t(`captions.${state}`)} ${failure.message}` : t(`captions.${state}`);
  }

  #scrolled() {
    const left = this.#board.scrollHeight - this.#board.scrollTop - this.#board.clientHeight;
    this.#follows = left < NEAR;
    this.#down.hidden = this.#follows;
  }

  #toEnd() {
    this.#board.scrollTop = this.#board.scrollHeight;
    this.#follows = true;
    this.#down.hidden = true;
  }

  #resize(step) {
    this.#change({ size: Math.min(SIZES.length - 1, Math.max(0, this.#look.size + step)) });
  }

  #change(part) {
    this.#look = { ...this.#look, ...part };
    try {
      localStorage.setItem(STORED, JSON.stringify(this.#look));
    } catch {
      // The browser stores nothing; the look lasts as long as the view.
    }
    this.#apply();
  }

  #apply() {
    this.#whole.dataset.colours = this.#look.colours;
    this.#whole.dataset.times = String(this.#look.times);
    this.#whole.dataset.size = String(this.#look.size);
    if (this.#follows) this.#toEnd();
  }

  async #toggleFull() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.#whole.requestFullscreen?.();
    this.#board.focus();
  }
}

function stored() {
  const usual = { size: 2, colours: 'page', times: false };
  try {
    const { size, colours, times } = JSON.parse(localStorage.getItem(STORED)) ?? {};
    return {
      size: SIZES[size] ? size : usual.size,
      colours: COLOURS.includes(colours) ? colours : usual.colours,
      times: times === true,
    };
  } catch {
    return usual;
  }
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const part = (count) => String(count).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  return `${hours ? `${hours}:` : ''}${part(Math.floor(whole / 60) % 60)}:${part(whole % 60)}`;
}
