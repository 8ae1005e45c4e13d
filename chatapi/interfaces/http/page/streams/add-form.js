/** Adds a place: a hydrophone, a broadcast, or a configuration as OrcaHello has them. */

import { element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';

/** Kind of source -> its fields. */
const FIELDS = { hls: ['id', 'name', 'base'], url: ['id', 'name', 'url'], yaml: ['yaml'] };

export class AddForm {
  root;
  #frame;
  #kind = element('select', { id: 'streams-kind' }, ...Object.keys(FIELDS).map((each) => element('option', { value: each }, t(`streams.kinds.${each}`))));
  #inputs = {
    id: element('input', { name: 'id', required: '', maxlength: '100', autocomplete: 'off', pattern: '[A-Za-z0-9_\\-][A-Za-z0-9_.\\-]*', placeholder: 'rpi_orcasound_lab' }),
    name: element('input', { name: 'name', maxlength: '200', autocomplete: 'off' }),
    base: element('input', { name: 'base', type: 'url', maxlength: '4000', autocomplete: 'off', placeholder: 'https://' }),
    url: element('input', { name: 'url', type: 'url', required: '', maxlength: '4000', autocomplete: 'off', placeholder: 'https://' }),
    yaml: element('textarea', { name: 'yaml', required: '', maxlength: '60000', rows: '8', spellcheck: 'false' }),
  };
  #labels;
  #submit = element('button', { type: 'submit', class: 'filled wide' }, t('streams.start'));

  /** @param {import('../frame.js').Mount} frame */
  constructor(frame) {
    this.#frame = frame;
    this.#labels = Object.fromEntries(Object.entries(this.#inputs).map(([name, input]) => [name, field(t(`streams.${name}`), input)]));
    this.#inputs.id.title = t('streams.id_hint');
    this.#kind.addEventListener('change', () => this.#show());
    const form = element('form', { class: 'streams-form' }, field(t('streams.kind'), this.#kind), ...Object.values(this.#labels), this.#submit);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#add(form);
    });
    this.root = element('details', { class: 'streams-add' }, element('summary', {}, t('streams.add')), form);
    this.#show();
  }

  /** Opens the form where there is nothing else to do. */
  invite() {
    this.root.open = true;
  }

  #show() {
    for (const [name, label] of Object.entries(this.#labels)) {
      label.hidden = !FIELDS[this.#kind.value].includes(name);
      this.#inputs[name].disabled = label.hidden;
    }
  }

  async #add(form) {
    this.#submit.disabled = true;
    try {
      const { signal } = this.#frame;
      const response = await this.#frame.api.request('monitors', { method: 'POST', signal, ...this.#body() });
      const { monitors } = await response.json();
      this.#frame.announce(t('streams.added', monitors.map(({ name }) => name).join(', ')));
      form.reset();
      this.#show();
      this.root.open = false;
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    } finally {
      this.#submit.disabled = false;
    }
  }

  #body() {
    const { id, name, base, url, yaml } = Object.fromEntries(Object.entries(this.#inputs).map(([key, input]) => [key, input.value.trim()]));
    const kind = this.#kind.value;
    if (kind === 'yaml') return { body: this.#inputs.yaml.value, headers: { 'Content-Type': 'application/yaml' } };
    const source = kind === 'url' ? { source_url: url } : { hls_stream_type: 'LiveHLS', ...(base ? { hls_base_url: base } : {}) };
    const body = JSON.stringify({ hls_hydrophone_id: id, ...(name ? { location_name: name } : {}), ...source });
    return { body, headers: { 'Content-Type': 'application/json' } };
  }
}

function field(words, input) {
  return element('label', { class: 'streams-field' }, element('span', {}, words), input);
}
