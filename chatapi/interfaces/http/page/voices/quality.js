/** The quality of reference clips in words. */

import { element, icon } from '../dom.js';
import { messageOf } from '../faults.js';
import { number, t } from '../texts.js';

/** Seconds of speech beyond which more hardly helps. */
const PLENTY = 60;

/**
 * @typedef {object} Quality
 * @property {number} speech_seconds
 * @property {number} level_db
 * @property {number} noise_db
 * @property {number} clipped  share of the samples
 * @property {number|null} speakers
 * @property {string[]} warnings
 */

/** What clips are like, before a voice is made of them. @param {Quality} quality */
export function qualityOf(quality) {
  const { speech_seconds: seconds, level_db: level, noise_db: noise, clipped, speakers, warnings } = quality;
  const warned = warnings.length > 0;
  const verdict = element('p', { class: `voices-verdict${warned ? '' : ' voices-good'}`, ...(warned ? { 'data-warned': '' } : {}) },
    icon(warned ? 'warning' : 'done'), t(warned ? 'voices.fair' : 'voices.good'));
  const words = t('voices.amount', number(seconds, 0), PLENTY);
  const amount = element('div', { class: 'voices-amount' }, element('span', {}, words),
    element('progress', { max: String(PLENTY), value: String(Math.min(PLENTY, seconds)), 'aria-label': words }));
  const figures = element('dl', { class: 'voices-figures' },
    figure(t('voices.level'), `${number(level, 0)} dBFS`), figure(t('voices.noise'), `${number(level - noise, 0)} dB`),
    figure(t('voices.clipped'), `${number(100 * clipped, 1)} %`),
    ...(speakers ? [figure(t('voices.speakers'), number(speakers, 0))] : []));
  const shown = element('div', { class: 'voices-quality' }, verdict, amount, figures);
  if (warned) shown.append(warningsOf(quality));
  return shown;
}

/** The warnings as a list. @param {Quality} quality */
export function warningsOf({ warnings }, marked = false) {
  return element('ul', { class: 'voices-warnings' }, ...warnings.map((name) => element('li', {},
    ...(marked ? [icon('warning')] : []), element('span', {}, t(`voices.warning_${name}`)))));
}

/** Why clips cannot be used. @param {import('../faults.js').Fault} fault */
export function rejectionOf(fault) {
  const { title, advice, small } = messageOf(fault);
  return element('div', { class: 'voices-bad' }, element('strong', {}, title), element('span', {}, advice), element('small', {}, small));
}

function figure(name, value) {
  return element('div', {}, element('dt', {}, name), element('dd', {}, value));
}
