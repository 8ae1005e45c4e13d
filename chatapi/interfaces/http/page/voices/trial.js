/** Says a recording or a text in a voice, and plays source and result side by side. */

import { element } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { ClipInput } from './clip-input.js';
import { field } from './form.js';

/** Milliseconds between two looks at a job. */
const LOOK_MS = 1500;

export class Trial {
  root;
  #frame;
  #input;
  #voices = [];
  #voice = element('select', { id: 'voices-choice' });
  #text = element('input', { id: 'voices-text', maxlength: '500', autocomplete: 'off', required: '' });
  #results = element('div', { class: 'voices-results', 'aria-live': 'polite' });
  #urls = [];
  /** Counts trials, to ignore the late result of an earlier one. */
  #trial = 0;

  /** @param {import('../frame.js').Mount} frame */
  constructor(frame) {
    this.#frame = frame;
    const options = { id: 'voices-source', label: t('voices.source'), more: t('voices.source_more'), multiple: false };
    this.#input = new ClipInput(frame, options, ([file]) => this.#convert(file));
    this.#text.placeholder = t('voices.text_example');
    const say = element('form', { class: 'voices-say' }, field(t('voices.text'), '', this.#text), element('button', { class: 'plain' }, t('voices.say')));
    say.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#say(this.#text.value);
    });
    this.root = element('section', {}, element('h2', {}, t('voices.try')), field(t('voices.voice'), '', this.#voice), this.#input.root, say, this.#results);
    this.root.hidden = true;
  }

  /** @param {{id: string, name: string}[]} voices */
  show(voices) {
    const chosen = this.#voice.value;
    this.#voices = voices;
    this.#voice.replaceChildren(...voices.map(({ id, name }) => element('option', { value: id }, name)));
    if (voices.some(({ id }) => id === chosen)) this.#voice.value = chosen;
    this.root.hidden = !voices.length;
  }

  close() {
    this.#input.close();
    this.#forget();
  }

  #convert(file) {
    const form = new FormData();
    form.append('voice', this.#voice.value);
    form.append('source', file, file.name);
    return this.#run(() => [this.#sound(t('voices.before'), file, 'voices-before')], async (report) => {
      const response = await this.#post('conversions', { body: form });
      return response.status === 202 ? this.#resultOf(await response.json(), report) : response.blob();
    });
  }

  #say(text) {
    const name = this.#voices.find(({ id }) => id === this.#voice.value)?.name;
    const body = JSON.stringify({ model: 'tts-1', input: text, voice: name, response_format: 'wav' });
    return this.#run(() => [], async () => (await this.#post('v1/audio/speech', { body, headers: { 'Content-Type': 'application/json' } })).blob());
  }

  /** Shows what is known, then the result of the work. */
  async #run(known, work) {
    this.#forget();
    this.#frame.clearNotice();
    const trial = this.#trial;
    const shown = known();
    const name = this.#voice.selectedOptions[0].text;
    const words = element('span', { class: 'voices-soft' }, t('voices.converting'));
    const waiting = element('figure', {}, element('figcaption', {}, t('voices.after', name)), words, element('div', { class: 'voices-indeterminate' }));
    this.#results.replaceChildren(...shown, waiting);
    try {
      const result = await work((message) => { words.textContent = message; });
      if (trial === this.#trial) waiting.replaceWith(this.#sound(t('voices.after', name), result, 'voices-after', `${name}.wav`));
    } catch (error) {
      if (this.#frame.signal.aborted || trial !== this.#trial) return;
      waiting.remove();
      this.#frame.notice(Fault.from(error));
    }
  }

  /** The result of a job, which a long recording becomes. */
  async #resultOf(job, report) {
    let found = job;
    while (!['done', 'failed', 'cancelled'].includes(found.state)) {
      report(t('voices.long', Math.floor(100 * found.progress)));
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      this.#frame.signal.throwIfAborted();
      found = await this.#frame.api.get(`jobs/${job.id}`);
    }
    if (found.state !== 'done') throw new Fault(found.failure?.code ?? 'engine_failed', { detail: found.failure?.message ?? '' });
    return (await this.#frame.api.request(`conversions/${job.id}`, { signal: this.#frame.signal })).blob();
  }

  #post(path, options) {
    return this.#frame.api.request(path, { method: 'POST', signal: this.#frame.signal, ...options });
  }

  #sound(words, blob, name, download = '') {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    const caption = element('figcaption', {}, words, ...(download ? [element('a', { href: url, download }, t('voices.download'))] : []));
    const player = element('audio', { class: name, controls: '', src: url, 'aria-label': words });
    return element('figure', download ? { class: 'voices-result' } : {}, caption, player);
  }

  #forget() {
    this.#trial += 1;
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    this.#results.replaceChildren();
  }
}
