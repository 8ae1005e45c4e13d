/** The monitored places: state, live spectrogram, and what was heard. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { Coverage, legend } from './coverage.js';
import { Spectrogram } from './spectrogram.js';
import { length } from './times.js';

const SPANS = { hour: 3600, day: 86400, week: 604800 };
const REFRESH_MS = 15000;
/** Detections that are marked on a bar. */
const MARKED = 500;

export class Places {
  root;
  #frame;
  #onplaces;
  #cards = new Map();
  #list = element('ul', { class: 'streams-places' });
  #empty = element('p', { class: 'streams-soft', hidden: '' }, t('streams.none'));
  #span = 'hour';
  #timer;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {(places: {id: string, name: string}[]) => void} onplaces
   */
  constructor(frame, onplaces) {
    this.#frame = frame;
    this.#onplaces = onplaces;
    const head = element('div', { class: 'streams-head' }, element('h2', {}, t('streams.places')), this.#spans());
    this.root = element('section', {}, head, this.#empty, this.#list, legend());
    this.#timer = setInterval(() => this.#refresh(), REFRESH_MS);
  }

  close() {
    clearInterval(this.#timer);
  }

  /** @param {object[]} monitors */
  show(monitors) {
    for (const id of [...this.#cards.keys()]) if (!monitors.some((each) => each.id === id)) this.forget(id);
    for (const each of monitors) this.update(each, true);
    this.#counted();
    this.#refresh();
  }

  update(monitor, together = false) {
    let card = this.#cards.get(monitor.id);
    if (!card) {
      card = new PlaceCard(this.#frame, monitor);
      this.#cards.set(monitor.id, card);
      this.#list.append(card.root);
      if (!together) {
        this.#counted();
        this.#refreshCard(card);
      }
    }
    card.show(monitor);
  }

  forget(id) {
    this.#cards.get(id)?.root.remove();
    this.#cards.delete(id);
    this.#counted();
  }

  draw(columns) {
    this.#cards.get(columns.id)?.draw(columns);
  }

  #counted() {
    this.#empty.hidden = this.#cards.size > 0;
    this.#onplaces([...this.#cards.values()].map(({ monitor }) => ({ id: monitor.id, name: monitor.name })));
  }

  #spans() {
    const buttons = Object.keys(SPANS).map((each) => button(t(`streams.spans.${each}`), () => {
      this.#span = each;
      for (const one of buttons) one.setAttribute('aria-pressed', String(one.dataset.span === each));
      this.#refresh();
    }, { 'data-span': each, 'aria-pressed': String(each === this.#span) }));
    return element('div', { class: 'streams-choice', role: 'group', 'aria-label': t('streams.span') }, ...buttons);
  }

  async #refresh() {
    for (const card of this.#cards.values()) await this.#refreshCard(card);
  }

  async #refreshCard(card) {
    const { id, live, scored_until: until } = card.monitor;
    const to = !live && until ? until : Date.now() / 1000;
    const from = to - SPANS[this.#span];
    const place = encodeURIComponent(id);
    try {
      const coverage = await this.#json(`monitors/${place}/coverage?from=${from}&to=${to}`);
      const found = await this.#json(`detections?place=${place}&from=${from}&to=${to}&limit=${MARKED}`);
      card.coverage.show(coverage, found.detections);
    } catch {
      // Nothing was heard there yet, or the box is away, of which the frame tells.
    }
  }

  async #json(path) {
    return (await this.#frame.api.request(path, { signal: this.#frame.signal })).json();
  }
}

class PlaceCard {
  root;
  coverage;
  monitor;
  #frame;
  #spectrogram;
  #state = element('span', { class: 'streams-state' });
  #about = element('p', { class: 'streams-soft' });
  #buttons = element('div', { class: 'streams-buttons' });
  #waiting = element('p', { class: 'streams-waiting' }, t('streams.spectrum_none'));

  constructor(frame, monitor) {
    this.#frame = frame;
    this.monitor = monitor;
    this.coverage = new Coverage(monitor.name);
    this.#spectrogram = new Spectrogram(t('streams.spectrum_of', monitor.name));
    const head = element('div', { class: 'streams-head' }, element('h3', {}, monitor.name), this.#state, this.#buttons);
    const stage = element('div', { class: 'streams-stage' }, this.#spectrogram.root, this.#waiting);
    this.root = element('li', { class: 'streams-card', 'data-place': monitor.id }, head, this.#about, stage, this.coverage.root);
  }

  show(monitor) {
    this.monitor = monitor;
    const { state } = monitor;
    this.#state.className = `streams-state streams-is-${state}`;
    this.#state.replaceChildren(element('i', { class: 'streams-dot' }), t(`streams.states.${state}`));
    const parts = [monitor.reason];
    if (monitor.live && monitor.heard_until) parts.push(t('streams.heard_ago', length(Date.now() / 1000 - monitor.heard_until)));
    if (monitor.lag_seconds > 1) parts.push(t('streams.behind', length(monitor.lag_seconds)));
    this.#about.textContent = parts.filter(Boolean).join(' · ');
    const wanted = this.#wanted().map(([key]) => key).join();
    if (this.#buttons.dataset.shown === wanted) return;
    this.#buttons.dataset.shown = wanted;
    this.#buttons.replaceChildren(...this.#wanted().map(([key, act]) => button(t(`streams.${key}`), act,
      { class: 'plain', 'data-act': key, 'aria-label': t(`streams.${key === 'again' ? 'resume' : key}_of`, monitor.name) })));
  }

  draw(columns) {
    this.#waiting.hidden = true;
    this.#spectrogram.add(columns);
    const until = columns.start + columns.seconds;
    if (until > (this.monitor.heard_until ?? 0)) this.show({ ...this.monitor, heard_until: until });
  }

  #wanted() {
    const { state, origin } = this.monitor;
    if (origin !== 'client') return [];
    const remove = ['remove', () => this.#remove()];
    if (state === 'paused') return [['resume', () => this.#post('resume')], remove];
    if (state === 'ended' || state === 'failed') return [['again', () => this.#post('resume')], remove];
    return [['pause', () => this.#post('pause')], remove];
  }

  async #post(verb) {
    try {
      this.show(await this.#frame.api.send('POST', `monitors/${encodeURIComponent(this.monitor.id)}/${verb}`));
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }

  async #remove() {
    if (!window.confirm(t('streams.remove_question', this.monitor.name))) return;
    try {
      await this.#frame.api.delete(`monitors/${encodeURIComponent(this.monitor.id)}`);
      this.#frame.announce(t('streams.removed', this.monitor.name));
    } catch (error) {
      this.#frame.notice(Fault.from(error));
    }
  }
}
