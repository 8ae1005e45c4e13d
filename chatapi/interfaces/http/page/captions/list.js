/** The captions of the box, and a form that starts new ones. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { endCaptions, listCaptions, startCaptions } from './requests.js';

const REFRESH_MS = 5000;

export class CaptionList {
  #frame;
  #list = element('ul', { class: 'captions-list' });
  #empty = element('p', { class: 'captions-empty' }, t('captions.none'));
  #timer = 0;

  /** @param {import('../frame.js').Mount} frame */
  constructor(root, frame) {
    this.#frame = frame;
    const heading = element('h2', {}, t('captions.running'));
    const page = element('div', { class: 'captions-page' }, this.#form(), heading, this.#empty, this.#list);
    root.replaceChildren(element('div', { class: 'scroller', tabindex: '-1' }, page));
    frame.onload(() => this.#refresh());
    this.#timer = setInterval(() => this.#refresh().catch(() => {}), REFRESH_MS);
  }

  close() {
    clearInterval(this.#timer);
  }

  #form() {
    const source = element('select', { name: 'source', id: 'captions-source' },
      element('option', { value: 'stream' }, t('captions.source_stream')),
      element('option', { value: 'microphone' }, t('captions.source_microphone')));
    const url = element('input', {
      name: 'url', id: 'captions-url', type: 'url', inputmode: 'url', required: '', maxlength: '4000',
      placeholder: 'https://', autocomplete: 'off',
    });
    const urlField = field(t('captions.url'), url);
    const speakers = element('input', { name: 'speakers', type: 'checkbox', id: 'captions-speakers' });
    const name = element('input', { name: 'title', id: 'captions-name', maxlength: '200', autocomplete: 'off' });
    source.addEventListener('change', () => {
      urlField.hidden = source.value !== 'stream';
      url.required = !urlField.hidden;
    });
    const form = element('form', { class: 'captions-form' }, field(t('captions.source'), source), urlField,
      field(t('captions.name'), name), element('label', { class: 'captions-check' }, speakers, t('captions.speakers')),
      element('button', { type: 'submit' }, t('captions.start')));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const wanted = { source: source.value, title: name.value, speakers: speakers.checked };
      if (source.value === 'stream') wanted.url = url.value;
      this.#start(wanted);
    });
    return form;
  }

  async #start(wanted) {
    try {
      const made = await startCaptions(wanted, this.#frame.signal);
      this.#frame.open(`captions/${made.id}`);
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }

  async #refresh() {
    const { captions } = await listCaptions(this.#frame.signal);
    if (this.#frame.signal.aborted) return;
    this.#empty.hidden = captions.length > 0;
    const focused = document.activeElement?.dataset?.key;
    this.#list.replaceChildren(...captions.map((each) => this.#row(each)));
    if (focused) this.#list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(each) {
    const name = each.title || t(`captions.source_${each.source}`);
    const link = element('a', { href: `#/captions/${each.id}`, 'data-key': `open-${each.id}` }, name);
    const state = element('span', { class: `captions-state captions-${each.state}` }, t(`captions.${each.state}`));
    const lines = element('span', { class: 'captions-count' }, t('captions.lines', each.lines));
    const remove = button(t('captions.end'), async () => {
      await endCaptions(each.id, this.#frame.signal).catch((error) => this.#frame.notice(Fault.from(error)));
      await this.#refresh();
    }, { 'data-key': `end-${each.id}`, 'aria-label': t('captions.end_of', name) });
    return element('li', {}, link, state, lines, remove);
  }
}

function field(words, input) {
  return element('label', { class: 'captions-field' }, element('span', {}, words), input);
}
