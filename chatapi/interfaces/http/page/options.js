/** The dialogs: the settings, the question for the API key, and the one before a conversation is forgotten. */

import { byId, element } from './dom.js';
import { preferences } from './preferences.js';

const ROLES = { vad: 'Notices speech', asr: 'Understands speech', llm: 'Thinks', tts: 'Speaks' };

export class Options {
  #dialog = byId('options');
  #voice = byId('voice');
  #language = byId('language');

  /** @param {() => void} onopen  called before it is shown, to bring `show` up to date */
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

  /** @param {{models: object[], voices: object[], languages: string[]}} known  what GET /models gives */
  show({ models, voices, languages }) {
    const titles = new Map(models.map(({ name, title }) => [name, title]));
    const named = voices.map(({ name, language }) => [name, titles.get(name) || `${name} (${nameOf(language)})`]);
    fill(this.#voice, [['', 'Automatic'], ...named], preferences.voice);
    const spoken = languages.map((code) => [code, nameOf(code)]).sort((a, b) => a[1].localeCompare(b[1]));
    fill(this.#language, [['', 'Automatic'], ...spoken], preferences.language);
    const active = Object.keys(ROLES).flatMap((role) => models.filter((model) => model.active && model.role === role));
    const none = element('li', { class: 'none' }, 'Not known yet: the models are still loading, or run without model files.');
    byId('engines').replaceChildren(...(active.length ? active.map(engine) : [none]));
  }

  #showKey() {
    byId('key-row').hidden = !preferences.key;
    byId('key-kept').textContent = preferences.keyIsRemembered ? 'kept on this device' : 'kept until this tab is closed';
  }
}

let asking = null;

/**
 * Ask for the API key.
 * @param {boolean} again  the one before was wrong
 * @returns {Promise<boolean>} whether one was entered
 */
export function askKey(again) {
  asking ??= asked(again).finally(() => { asking = null; });
  return asking;
}

async function asked(again) {
  const dialog = byId('key');
  byId('key-words').textContent = again || preferences.key
    ? 'That key was not accepted. Enter the API key of this box.'
    : 'Whoever set it up chose an API key. Enter it to go on.';
  byId('key-value').value = '';
  byId('key-remember').checked = preferences.keyIsRemembered;
  const left = await shown(dialog);
  const entered = byId('key-value').value.trim();
  if (left !== 'enter' || !entered) return false;
  preferences.keepKey(entered, byId('key-remember').checked);
  return true;
}

/** Whether the conversation may be forgotten. */
export async function confirmRenewal() {
  return (await shown(byId('renewal'))) === 'renew';
}

/** What a dialog was closed with; '' when it was left. */
async function shown(dialog) {
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
  // A choice made earlier stays, also while the models that know it are still loading.
  if (chosen && !options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
  select.replaceChildren(...options.map(([value, words]) => element('option', { value }, words)));
  select.value = chosen;
}

function nameOf(code) {
  try {
    return new Intl.DisplayNames([navigator.language, 'en'], { type: 'language' }).of(code) ?? code;
  } catch {
    // Not every code a model lists is one that browsers know.
    return code;
  }
}

function closeOnBackdrop(dialog) {
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
}
