/** The dialogs: settings, and the prompt for the API key. */

import { byId, element } from './dom.js';
import { preferences } from './preferences.js';
import { LANGUAGES, language, nameOfLanguage, t } from './texts.js';

const ROLES = ['vad', 'asr', 'llm', 'tts'];

export class Options {
  #dialog = byId('options');
  #voice = byId('voice');
  #language = byId('language');
  #pageLanguage = byId('page-language');

  /** @param {() => void} onopen  called before it is shown, to update it */
  constructor(onopen) {
    byId('open-options').addEventListener('click', () => {
      this.#showKey();
      onopen();
      this.#dialog.showModal();
    });
    this.#voice.addEventListener('change', () => { preferences.voice = this.#voice.value; });
    this.#language.addEventListener('change', () => { preferences.language = this.#language.value; });
    fill(this.#pageLanguage, Object.entries(LANGUAGES), language);
    this.#pageLanguage.addEventListener('change', () => {
      preferences.pageLanguage = this.#pageLanguage.value;
      location.reload();
    });
    byId('forget-key').addEventListener('click', () => {
      preferences.keepKey('', false);
      this.#showKey();
    });
    // Enter presses the first submit button of a form, which is not to be this one.
    byId('key-close').addEventListener('click', () => byId('key').close());
    closeOnBackdrop(this.#dialog);
    this.show({ models: [], voices: [], languages: [] });
  }

  /** @param {{models: object[], voices: object[], languages: string[]}} known  the response of GET /models */
  show({ models, voices, languages }) {
    const titles = new Map(models.map(({ name, title }) => [name, title]));
    const named = voices.map(({ name, language }) => [name, titles.get(name) || `${name} (${nameOfLanguage(language)})`]);
    fill(this.#voice, [['', t('options.automatic')], ...named], preferences.voice);
    const spoken = languages.map((code) => [code, nameOfLanguage(code)]).sort((a, b) => a[1].localeCompare(b[1]));
    fill(this.#language, [['', t('options.automatic')], ...spoken], preferences.language);
    const active = ROLES.flatMap((role) => models.filter((model) => model.active && model.role === role));
    const none = element('li', { class: 'none' }, t('options.unknown'));
    byId('engines').replaceChildren(...(active.length ? active.map(engine) : [none]));
  }

  #showKey() {
    byId('key-row').hidden = !preferences.key;
    byId('key-kept').textContent = t(preferences.keyIsRemembered ? 'key.kept' : 'key.kept_in_tab');
  }
}

let asking = null;

/**
 * Prompts for the API key.
 * @param {boolean} again  whether the previous key was wrong
 * @returns {Promise<boolean>} whether one was entered
 */
export function askKey(again) {
  asking ??= promptForKey(again).finally(() => { asking = null; });
  return asking;
}

async function promptForKey(again) {
  const dialog = byId('key');
  byId('key-words').textContent = t(again || preferences.key ? 'key.wrong' : 'key.words');
  byId('key-value').value = '';
  byId('key-remember').checked = preferences.keyIsRemembered;
  const result = await showDialog(dialog);
  const entered = byId('key-value').value.trim();
  if (result !== 'enter' || !entered) return false;
  preferences.keepKey(entered, byId('key-remember').checked);
  return true;
}

/** The return value of a dialog; '' when it was dismissed. */
async function showDialog(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }));
  return dialog.returnValue;
}

function engine({ role, title, name, licence }) {
  const what = element('strong', {}, title || name);
  return element('li', {}, element('span', {}, t(`roles.${role}`)), what, element('small', {}, licence ?? ''));
}

function fill(select, options, chosen) {
  // An earlier choice stays, even while its model is still loading.
  if (chosen && !options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
  const shown = [...select.options].map(({ value, text }) => [value, text]);
  // Replacing options closes a list that is open, so it happens only for other ones.
  if (JSON.stringify(shown) !== JSON.stringify(options)) {
    select.replaceChildren(...options.map(([value, words]) => element('option', { value }, words)));
  }
  select.value = chosen;
}

function closeOnBackdrop(dialog) {
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
}
