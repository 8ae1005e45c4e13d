/** The detections: chosen by review and place, in pages. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { DetectionCard } from './detection.js';

const FILTERS = ['unreviewed', 'positive', 'negative', 'unknown', 'muted'];
const PAGE = 20;
/** Time that a download has to begin, in milliseconds. */
const REVOKE_MS = 60000;

export class Detections {
  root;
  #frame;
  #onmuted;
  #cards = new Map();
  #list = element('ul', { class: 'streams-detections' });
  #empty = element('p', { class: 'streams-soft', hidden: '' });
  #more;
  #export;
  #tabs;
  #place = element('select', { id: 'streams-place' });
  #filter = 'unreviewed';
  #next = null;
  #loads = 0;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {() => void} onmuted
   */
  constructor(frame, onmuted) {
    this.#frame = frame;
    this.#onmuted = onmuted;
    this.#tabs = FILTERS.map((each) => button('', () => this.#choose(each), { 'data-filter': each }));
    this.#more = button(t('streams.more'), () => this.#load(this.#next), { class: 'plain', hidden: '' });
    this.#place.addEventListener('change', () => this.load());
    const choice = element('div', { class: 'streams-choice', role: 'group', 'aria-label': t('streams.filter') }, ...this.#tabs);
    const place = element('label', { class: 'streams-at' }, element('span', { class: 'unseen' }, t('streams.at')), this.#place);
    const head = element('div', { class: 'streams-head' }, element('h2', {}, t('streams.detections')), place);
    this.#export = button(t('streams.exported'), () => this.#exportAll(), { class: 'plain', hidden: '' });
    const below = element('div', { class: 'streams-buttons' }, this.#more, this.#export);
    this.root = element('section', {}, head, choice, this.#empty, this.#list, below);
    this.#showTabs({});
    this.showPlaces([]);
  }

  close() {
    for (const card of this.#cards.values()) card.close();
  }

  /** @param {{id: string, name: string}[]} places */
  showPlaces(places) {
    const chosen = this.#place.value;
    const options = [['', t('streams.all_places')], ...places.map(({ id, name }) => [id, name])];
    const shown = [...this.#place.options].map((each) => `${each.value}\n${each.text}`).join();
    // An open list stays open while nothing changes.
    if (shown === options.map((each) => each.join('\n')).join()) return;
    this.#place.replaceChildren(...options.map(([value, words]) => element('option', { value }, words)));
    this.#place.value = options.some(([value]) => value === chosen) ? chosen : '';
  }

  load() {
    return this.#load(null);
  }

  /** Shows a review that somebody made. */
  update(detection) {
    this.#cards.get(detection.id)?.show(detection);
  }

  #choose(filter) {
    this.#filter = filter;
    this.load();
  }

  async #load(before) {
    const load = ++this.#loads;
    const { signal } = this.#frame;
    const wanted = { limit: PAGE, place: this.#place.value, ...(before ? { before } : {}) };
    if (this.#filter === 'muted') wanted.muted = true;
    else wanted.state = this.#filter;
    try {
      const response = await this.#frame.api.request(`detections?${new URLSearchParams(wanted)}`, { signal });
      const found = await response.json();
      if (load === this.#loads) this.#show(found, !before);
    } catch (error) {
      if (!signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }

  #show({ detections, next, counts }, anew) {
    this.#next = next;
    this.#more.hidden = !next;
    if (this.#filter !== 'muted') this.#showTabs(counts);
    else this.#pressed();
    if (anew) this.#clear(detections);
    for (const each of detections) {
      if (!this.#cards.has(each.id)) {
        const card = new DetectionCard(this.#frame, each, this.#onmuted);
        this.#cards.set(each.id, card);
        this.#list.append(card.root);
      }
      this.#cards.get(each.id).show(each);
    }
    this.#empty.textContent = t(`streams.nothing.${this.#filter}`);
    this.#empty.hidden = this.#cards.size > 0;
  }

  #clear(kept) {
    const shown = [...this.#cards.keys()];
    if (shown.length && shown.join() === kept.map(({ id }) => id).join()) return;
    this.close();
    this.#cards.clear();
    this.#list.replaceChildren();
  }

  #showTabs(counts) {
    this.#export.hidden = !['positive', 'negative', 'unknown'].some((each) => counts[each]);
    for (const tab of this.#tabs) {
      const { filter } = tab.dataset;
      const count = counts[filter];
      tab.textContent = t(`streams.filters.${filter}`) + (count ? ` (${count})` : '');
    }
    this.#pressed();
  }

  /** Downloads all that were reviewed. */
  async #exportAll() {
    try {
      const response = await this.#frame.api.request('detections/export', { signal: this.#frame.signal });
      const url = URL.createObjectURL(await response.blob());
      element('a', { href: url, download: 'detections.tar' }).click();
      setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS);
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }

  #pressed() {
    for (const tab of this.#tabs) tab.setAttribute('aria-pressed', String(tab.dataset.filter === this.#filter));
  }
}
