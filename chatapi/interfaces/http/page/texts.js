/** The texts of the page, in the language of its user: one dictionary for each language, of which one is loaded. */

import { preferences } from './preferences.js';

/** Code of a language -> its own name. Each has a dictionary in `texts/`. */
export const LANGUAGES = { en: 'English', de: 'Deutsch' };

/** The language that the user selected here, else the first one of the browser that has a dictionary, else English. */
function choose() {
  const wanted = [preferences.pageLanguage, ...navigator.languages].map((tag) => tag.toLowerCase().split('-')[0]);
  return wanted.find((code) => Object.hasOwn(LANGUAGES, code)) ?? 'en';
}

export const language = choose();
const { default: dictionary } = await import(`./texts/${language}.js`);
document.documentElement.lang = language;

/**
 * The text with this key, for example `t('transcribe.title')`; for a key that is missing, the key.
 * @param {string} key
 * @param {...any} values  arguments of a text that is a function
 */
export function t(key, ...values) {
  const text = find(key);
  return typeof text === 'function' ? text(...values) : text ?? key;
}

/** The entry of the dictionary with this key; undefined: there is none. */
export function find(key) {
  return key.split('.').reduce((part, name) => (part && Object.hasOwn(part, name) ? part[name] : undefined), dictionary);
}

/** Fills the elements below one: `data-text="frame.close"` their text, `data-texts="title=frame.close"` attributes. */
export function translate(root) {
  for (const each of root.querySelectorAll('[data-text]')) each.textContent = t(each.dataset.text);
  for (const each of root.querySelectorAll('[data-texts]')) {
    for (const pair of each.dataset.texts.split(' ')) {
      const [attribute, key] = pair.split('=');
      each.setAttribute(attribute, t(key));
    }
  }
}

/** A number with at most so many decimals, as the language writes it. */
export function number(value, decimals = 0) {
  return value.toLocaleString(language, { maximumFractionDigits: decimals });
}

/** The name of a language by its ISO 639-1 code. */
export function nameOfLanguage(code) {
  try {
    return new Intl.DisplayNames([language, 'en'], { type: 'language' }).of(code) ?? code;
  } catch {
    // Browsers do not know every language code of the models.
    return code;
  }
}
