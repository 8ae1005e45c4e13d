/** The versions: the figures of the active one, and the way back to others. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { number, t } from '../texts.js';
import { confusionMatrix, trainingCurve } from './figures.js';

export class VersionList {
  root;
  #frame;
  #requests;
  #onchanged;
  #figures = element('div', {});
  #list = element('ul', { class: 'commands-versions' });
  #back;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {import('./requests.js').CommandRequests} requests
   * @param {() => Promise<void>} onchanged
   */
  constructor(frame, requests, onchanged) {
    this.#frame = frame;
    this.#requests = requests;
    this.#onchanged = onchanged;
    this.#back = button(t('commands.roll_back'), () => this.#change(() => requests.rollBack()), { class: 'plain' });
    this.root = element('section', {}, element('h2', {}, t('commands.versions')), this.#figures, this.#back, this.#list);
  }

  /** @param {{active: number, versions: object[]}} found */
  show({ active, versions }) {
    this.root.hidden = !versions.length;
    this.#back.hidden = !active;
    const shown = versions.find(({ number: each }) => each === active);
    this.#figures.replaceChildren(...(shown ? figuresOf(shown) : [element('p', { class: 'commands-soft' }, t('commands.untaught'))]));
    const rows = versions.map((each) => this.#row(each.number, aboutOf(each), each.number === active));
    this.#list.replaceChildren(...rows, this.#row(0, t('commands.model_itself'), active === 0));
  }

  #row(version, about, active) {
    const name = version ? t('commands.version', version) : t('commands.version_none');
    const text = element('span', {}, element('strong', {}, name), element('small', {}, about));
    const action = active ? element('span', { class: 'commands-active' }, t('commands.active'))
      : button(t('commands.activate'), () => this.#change(() => this.#requests.activate(version)), { class: 'plain', 'aria-label': t('commands.activate_of', name) });
    return element('li', active ? { 'aria-current': 'true' } : {}, text, action);
  }

  async #change(action) {
    try {
      const { active } = await action();
      this.#frame.announce(active ? t('commands.activated', active) : t('commands.activated_none'));
      await this.#onchanged();
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }
}

function figuresOf({ figures, labels }) {
  const { accuracy, false_accepts: wrong, held_out: heldOut, confusion } = figures.new;
  const tiles = [[t('commands.accuracy'), accuracy], [t('commands.false_accepts'), wrong], [t('commands.held_out'), heldOut]];
  return [
    element('dl', { class: 'commands-tiles' }, ...tiles.filter(([, share]) => share != null).map(([name, share]) =>
      element('div', {}, element('dt', {}, name), element('dd', {}, `${number(100 * share, 1)}\u00a0%`)))),
    element('div', { class: 'commands-drawn' }, confusionMatrix(confusion, labels),
      ...(figures.curve?.length > 1 ? [trainingCurve(figures.curve)] : [])),
  ];
}

function aboutOf(version) {
  const when = new Date(version.created * 1000).toLocaleString(document.documentElement.lang, { dateStyle: 'medium', timeStyle: 'short' });
  const parts = [when, t('commands.trained_on', version.samples)];
  if (version.verdict.length) parts.push(t('commands.not_good_enough'));
  return parts.join(' · ');
}
