/** The options of new transcriptions, folded away; stored on this device. */

import { element } from '../dom.js';
import { preferences } from '../preferences.js';
import { nameOfLanguage, t } from '../texts.js';
import { FORMATS } from './job.js';

const DEFAULTS = { language: '', translate: false, speakers: false, speaker_count: '', prompt: '', words: true, format: 'txt' };

export class OptionsForm {
  #values = { ...DEFAULTS, ...stored() };
  #language = element('select', { id: 'transcribe-language', name: 'language' });
  #summary = element('span', { class: 'gist' });
  #languages = [];

  constructor() {
    const prompt = element('textarea', { id: 'transcribe-prompt', name: 'prompt', rows: '2', maxlength: '8000', placeholder: t('transcribe.prompt_example') });
    prompt.value = this.#values.prompt;
    const count = element('input', { id: 'transcribe-count', name: 'speaker_count', type: 'number', min: '1', max: '100', inputmode: 'numeric', placeholder: t('transcribe.automatic') });
    count.value = this.#values.speaker_count;
    const format = element('select', { id: 'transcribe-format', name: 'format' }, ...FORMATS.map((name) => element('option', { value: name }, t(`transcribe.formats.${name}`))));
    format.value = this.#values.format;
    const summary = element('summary', {}, element('strong', {}, t('transcribe.options')), this.#summary);
    this.element = element(
      'details', { class: 'options' }, summary,
      element(
        'form', { class: 'option-list' },
        row(this.#language, t('transcribe.language')),
        this.#check('translate'), this.#check('speakers'), row(count, t('transcribe.speaker_count')), this.#check('words'),
        row(format, t('transcribe.format')),
        element('div', { class: 'stacked' }, element('label', { for: prompt.id }, t('transcribe.prompt')), prompt),
      ),
    );
    this.element.querySelector('form').addEventListener('submit', (event) => event.preventDefault());
    this.element.addEventListener('change', ({ target }) => {
      this.#values[target.name] = target.type === 'checkbox' ? target.checked : target.value;
      preferences.transcription = JSON.stringify(this.#values);
      this.#show();
    });
    this.setLanguages([]);
  }

  /** @param {string[]} codes  the languages of the model */
  setLanguages(codes) {
    if (this.#languages.length && codes.join() === this.#languages.join()) return;
    this.#languages = codes;
    const all = codes.map((code) => [code, nameOfLanguage(code)]).sort((a, b) => a[1].localeCompare(b[1]));
    const { language } = this.#values;
    if (language && !codes.includes(language)) all.push([language, nameOfLanguage(language)]);
    this.#language.replaceChildren(...[['', t('transcribe.automatic')], ...all].map(([value, words]) => element('option', { value }, words)));
    this.#language.value = language;
    this.#show();
  }

  /** The options as the server takes them; those with their default are left out. */
  get options() {
    const { language, translate, speakers, speaker_count: count, prompt, words, format } = this.#values;
    return {
      ...(language && { language }),
      ...(translate && { translate: 'true' }),
      ...(speakers && { speakers: 'true', ...(Number(count) >= 1 && { speaker_count: String(Math.min(100, Math.round(count))) }) }),
      ...(prompt.trim() && { prompt: prompt.trim() }),
      ...(words && { words: 'true' }),
      formats: format,
    };
  }

  #check(name) {
    const box = element('input', { type: 'checkbox', id: `transcribe-${name}`, name });
    box.checked = this.#values[name];
    const words = element('span', {}, t(`transcribe.${name}`), ' ', element('small', {}, t(`transcribe.${name}_of`)));
    return element('label', { class: 'check', for: box.id }, box, words);
  }

  #show() {
    const { language, translate, speakers } = this.#values;
    const parts = [language ? nameOfLanguage(language) : t('transcribe.any_language')];
    if (translate) parts.push(t('transcribe.translate'));
    if (speakers) parts.push(t('transcribe.speakers'));
    this.#summary.textContent = parts.join(' · ');
    this.element.querySelector('#transcribe-count').closest('.row').hidden = !speakers;
  }
}

function row(control, words) {
  return element('label', { class: 'row', for: control.id }, element('span', {}, words), control);
}

function stored() {
  try {
    return JSON.parse(preferences.transcription || '{}');
  } catch {
    return {};
  }
}
