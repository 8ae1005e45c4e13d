/** The dialogs: settings, the prompt for the API key, and the confirmation of a new conversation. */

import { byId, element } from './dom.js';
import { preferences } from './preferences.js';

const ROLES = { vad: 'Voice activity detection', asr: 'Speech recognition', llm: 'Language model', tts: 'Speech synthesis' };

export class Options {
  #dialog = byId('options');
  #voice = byId('voice');
  #language = byId('language');

  /** @param {() => void} onopen  called before it is shown, to update it */
  constructor(onopen) {
    byId('open-options').addEventListener('click', () => {
      this.#showKey();
      onopen();
      this.#dialog.showModal();
    });
    this.#voice.addEventListener('change', () => { preferences.voice = this.#voice.value; });
    this.#language.addEventListener('change', () => { preferences.language = this.#language.value; });
    byId('forget-key').addEventListener('click', () => {
      preferences.keepKey('', false);
      this.#showKey();
    });
    closeOnBackdrop(this.#dialog);
    this.show({ models: [], voices: [], languages: [] });
  }

  /** @param {{models: object[], voices: object[], languages: string[]}} known  the response of GET /models */
  show({ models, voices, languages }) {
    const titles = new Map(models.map(({ name, title }) => [name, title]));
    const named = voices.map(({ name, language }) => [name, titles.get(name) || `${name} (${nameOf(language)})`]);
    fill(this.#voice, [['', 'Automatic'], ...named], preferences.voice);
    const spoken = languages.map((code) => [code, nameOf(code)]).sort((a, b) => a[1].localeCompare(b[1]));
    fill(this.#language, [['', 'Automatic'], ...spoken], preferences.language);
    const active = Object.keys(ROLES).flatMap((role) => models.filter((model) => model.active && model.role === role));
    const none = element('li', { class: 'none' }, 'Not known yet: the models are loading, or the engines have no model files.');
    byId('engines').replaceChildren(...(active.length ? active.map(engine) : [none]));
  }

  #showKey() {
    byId('key-row').hidden = !preferences.key;
    byId('key-kept').textContent = preferences.keyIsRemembered ? 'stored on this device' : 'stored until this tab is closed';
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
  byId('key-words').textContent = again || preferences.key
    ? 'That key was not accepted. Enter the API key of this box.'
    : 'The owner of this box set an API key. Enter it to continue.';
  byId('key-value').value = '';
  byId('key-remember').checked = preferences.keyIsRemembered;
  const result = await showDialog(dialog);
  const entered = byId('key-value').value.trim();
  if (result !== 'enter' || !entered) return false;
  preferences.keepKey(entered, byId('key-remember').checked);
  return true;
}

/** Asks whether the conversation may be deleted. */
export async function confirmRenewal() {
  return (await showDialog(byId('renewal'))) === 'renew';
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
  return element('li', {}, element('span', {}, ROLES[role]), what, element('small', {}, licence ?? ''));
}

function fill(select, options, chosen) {
  // An earlier choice stays, even while its model is still loading.
  if (chosen && !options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
  select.replaceChildren(...options.map(([value, words]) => element('option', { value }, words)));
  select.value = chosen;
}

function nameOf(code) {
  try {
    return new Intl.DisplayNames([navigator.language, 'en'], { type: 'language' }).of(code) ?? code;
  } catch {
    // Browsers do not know every language code of the models.
    return code;
  }
}

function closeOnBackdrop(dialog) {
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
}
