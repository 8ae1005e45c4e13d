/** The frame around the views: routes, navigation, title, focus, notices, and the state of the box. */

import { card } from './answer.js';
import { byId, element, icon } from './dom.js';
import { Fault } from './faults.js';
import { askKey, Options } from './options.js';
import { Readiness } from './readiness.js';
import { t } from './texts.js';

/** What a view gets of the frame, from `mount` until `unmount`. */
export class Mount {
  #frame;
  /** Parts of the route behind the view's own, for example `['j12']` of `#/transcribe/j12`. */
  route;
  /** @type {import('./api.js').Api} */
  api;
  /** Aborted when the view is left: pass it to requests, listeners and loops that belong to the view. */
  signal;
  /** Element in the header for the view's own buttons; the frame empties it. */
  actions = byId('view-actions');

  constructor(frame, api, route, signal) {
    this.#frame = frame;
    this.api = api;
    this.route = route;
    this.signal = signal;
  }

  /** Replaces the heading and the title, for a part of a view. */
  setTitle(text) {
    if (!this.signal.aborted) this.#frame.setTitle(text);
  }

  /** Opens a route, for example `transcribe/j12`. */
  open(route) {
    this.#frame.open(route);
  }

  /** Speaks a short text to screen readers. */
  announce(words) {
    this.#frame.announce(words);
  }

  /**
   * Shows a fault above the view, in place of the one before.
   * @param {Fault} fault
   * @param {{words: string, pressed: () => void}[]} [ways]  buttons with remedies
   */
  notice(fault, ways = []) {
    this.#frame.notice(fault, ways);
  }

  clearNotice() {
    this.#frame.clearNotice();
  }

  /**
   * Prompts for the API key, and reloads the state of the box with it.
   * @param {boolean} again  whether the previous key was wrong
   * @returns {Promise<boolean>} whether a key was entered
   */
  unlock(again) {
    return this.#frame.unlock(again);
  }

  /** Calls back now, and again whenever the box has become ready or a key was entered; rejections become notices. */
  onload(callback) {
    this.#frame.loaders.push(callback);
  }

  /** Calls back with the response of `GET /models`, now if it is known, and whenever it was loaded. */
  onmodels(callback) {
    this.#frame.addModelsCallback(callback);
  }

  /** Shows a text in place of `Ready`; '' ends it. */
  showActivity(words) {
    this.#frame.showActivity(words);
  }

  /** Checks the state of the box at once, for example after a lost connection. */
  checkBox() {
    this.#frame.readiness.check();
  }

  openSettings() {
    byId('open-options').click();
  }
}

export class Frame {
  #api;
  #views;
  #models = null;
  #modelsCallbacks = [];
  #options = new Options(() => this.#loadModels());
  #activity = '';
  /** Aborts what belongs to the shown view. */
  #leaving = new AbortController();
  #view = null;
  #entry = null;
  /** Changes with every route, to ignore the late module of another one. */
  #opened = 0;
  loaders = [];

  /**
   * @param {import('./api.js').Api} api
   * @param {import('./views.js').VIEWS} views
   */
  constructor(api, views) {
    this.#api = api;
    this.#views = views;
    this.readiness = new Readiness(api, (state, before) => this.#onstate(state, before), (codes) => this.#warn(codes));
    byId('navigation-list').replaceChildren(...views.map(({ path, icon: name }) => {
      const words = element('span', {}, t(`navigation.${path}`));
      return element('li', {}, element('a', { href: `#/${path}`, 'data-path': path }, icon(name), words));
    }));
    byId('skip').addEventListener('click', (event) => {
      // Its target is no route.
      event.preventDefault();
      byId('views').focus();
    });
    window.addEventListener('hashchange', () => this.#follow(true));
    window.addEventListener('error', () => this.notice(new Fault('page_fault')));
    window.addEventListener('unhandledrejection', ({ reason }) => this.notice(Fault.from(reason)));
  }

  /** Shows the view of the address. */
  start() {
    return this.#follow(false);
  }

  open(route) {
    location.hash = `#/${route}`;
  }

  setTitle(text) {
    byId('view-title').textContent = text;
    document.title = `${text} · chatapi`;
  }

  announce(words) {
    byId('announcer').textContent = words;
  }

  notice(fault, ways = []) {
    byId('notice').replaceChildren(card(fault, [...ways, { words: t('frame.close'), pressed: () => this.clearNotice() }]));
  }

  clearNotice() {
    byId('notice').replaceChildren();
  }

  async unlock(again) {
    if (!(await askKey(again))) return false;
    this.load();
    return true;
  }

  addModelsCallback(callback) {
    this.#modelsCallbacks.push(callback);
    if (this.#models) callback(this.#models);
  }

  showActivity(words) {
    this.#activity = words;
    this.#showStatus();
  }

  /** Loads the state of the box, also after a key was entered and after the box was unreachable. */
  async load() {
    const checked = this.readiness.check();
    const notice = byId('notice').firstChild;
    try {
      for (const each of [...this.loaders]) await each();
      await this.#loadModels();
      // A notice that came meanwhile is of something else.
      if (byId('notice').firstChild === notice) this.clearNotice();
    } catch (error) {
      const fault = Fault.from(error);
      if (fault.code === 'unauthorized') await this.unlock(false);
      // While the box warms up the status shows it, and this runs again once it is ready.
      else if (fault.status !== 503) this.notice(fault, [{ words: t('frame.try_again'), pressed: () => this.load() }]);
    }
    await checked;
  }

  async #follow(moved) {
    const [path, ...route] = location.hash.replace(/^#\/?/, '').split('/').map(decoded);
    const entry = this.#views.find((each) => each.path === path) ?? this.#views[0];
    const opened = ++this.#opened;
    this.#leave();
    const view = await entry.load();
    if (opened !== this.#opened) return;
    this.#show(entry, view, entry.path === path ? route : []);
    if (moved) byId('view-title').focus();
    await this.load();
  }

  #leave() {
    this.#leaving.abort();
    this.#view?.unmount();
    this.#view = null;
    if (this.#entry) rootOf(this.#entry).hidden = true;
    this.loaders = [];
    this.#modelsCallbacks = [];
    this.#activity = '';
    byId('view-actions').replaceChildren();
    this.clearNotice();
  }

  #show(entry, view, route) {
    for (const link of byId('navigation-list').querySelectorAll('a')) {
      if (link.dataset.path === entry.path) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    this.#leaving = new AbortController();
    this.#view = view;
    this.#entry = entry;
    const root = rootOf(entry);
    root.hidden = false;
    this.setTitle(view.title);
    view.mount(root, new Mount(this, this.#api, route, this.#leaving.signal));
    this.#showStatus();
  }

  async #loadModels() {
    const known = await this.#api.get('models');
    this.#models = known;
    this.#options.show(known);
    for (const each of this.#modelsCallbacks) each(known);
  }

  #onstate(state, before) {
    byId('status').dataset.state = state;
    this.#showStatus();
    if (state === 'ready' && before !== 'connecting') this.load();
  }

  #showStatus() {
    const { state } = this.readiness;
    byId('status-words').textContent = this.#activity && state === 'ready' ? this.#activity : t(`states.${state}`);
  }

  /** Shows warnings until they are resolved or closed. */
  #warn(codes) {
    byId('warnings').replaceChildren(...codes.map((code) => {
      const shown = card(new Fault(code), [{ words: t('frame.close'), pressed: () => shown.remove() }]);
      return shown;
    }));
  }
}

/** The element of a view: it is hidden, not removed, while another view is shown. */
function rootOf({ path }) {
  const found = byId(`view-${path}`);
  if (found) return found;
  const made = element('div', { class: 'view', id: `view-${path}`, hidden: '' });
  byId('views').append(made);
  return made;
}

/** A part of a route; as it is where its encoding is damaged. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
