/** The view Streams: monitored places, what was heard there, and the moderation of detections. */

import { element, loadStyle } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { AddForm } from './add-form.js';
import { Detections } from './detections.js';
import { Mutes } from './mutes.js';
import { Places } from './places.js';

export const title = t('streams.title');

// Its rules have to be there before anything is shown.
await loadStyle('streams/streams.css');

/** Time before the events are asked for again, in milliseconds. */
const PAUSE_MS = 3000;
/** Time in which detections that come together are loaded once, in milliseconds. */
const GATHER_MS = 500;

/** @type {{close: () => void}[]} */
let parts = [];

/** @param {import('../frame.js').Mount} frame */
export function mount(root, frame) {
  const mutes = new Mutes(frame);
  const detections = new Detections(frame, () => mutes.load());
  const places = new Places(frame, (all) => detections.showPlaces(all));
  const form = new AddForm(frame);
  const waiting = element('p', { class: 'streams-warning', role: 'status', hidden: '' });
  const page = element('div', { class: 'streams-page' }, waiting, places.root, form.root, detections.root, mutes.root);
  root.replaceChildren(element('div', { class: 'scroller', tabindex: '-1' }, page));
  const feed = new Feed(frame, { places, detections, form, waiting });
  frame.onload(async () => {
    await detections.load();
    await mutes.load();
    feed.start();
  });
  parts = [places, detections];
}

export function unmount() {
  for (const each of parts) each.close();
  parts = [];
}

/** Brings the events of the server to the parts of the view. */
class Feed {
  #frame;
  #view;
  #started = false;
  #found = new Map();
  #timer = 0;

  constructor(frame, view) {
    this.#frame = frame;
    this.#view = view;
  }

  start() {
    if (this.#started) return;
    this.#started = true;
    this.#follow();
  }

  async #follow() {
    const { signal, api } = this.#frame;
    while (!signal.aborted) {
      try {
        for await (const { name, data } of api.events('monitors/all/events', signal)) this.#take(name, data);
      } catch (error) {
        const { status } = Fault.from(error);
        // A key that may not see the places gets this message from the frame.
        if (signal.aborted || status === 401 || status === 403) return;
      }
      await new Promise((resolve) => { setTimeout(resolve, PAUSE_MS); });
    }
  }

  #take(name, data) {
    const { places, detections, form, waiting } = this.#view;
    if (name === 'monitors') {
      places.show(data.monitors);
      for (const each of data.monitors) this.#found.set(each.id, each.detections);
      if (!data.monitors.length) form.invite();
      waiting.textContent = data.fault ? t('streams.waiting', data.waiting, data.fault) : '';
      waiting.hidden = !data.fault;
    } else if (name === 'monitor') {
      places.update(data);
      if (data.detections > (this.#found.get(data.id) ?? 0)) this.#gather();
      this.#found.set(data.id, data.detections);
    } else if (name === 'removed') places.forget(data.id);
    else if (name === 'spectrum') places.draw(data);
    else if (name === 'detection') detections.update(data);
  }

  #gather() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => { if (!this.#frame.signal.aborted) this.#view.detections.load(); }, GATHER_MS);
  }
}
