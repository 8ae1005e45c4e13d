/** The quality of reference clips in words. */

import { element } from '../dom.js';
import { t } from '../texts.js';

/** @param {{speech_seconds: number, level_db: number, noise_db: number, clipped: number, warnings: string[]}} quality */
export function qualityOf(quality) {
  const figures = t('voices.figures', quality.speech_seconds.toFixed(1), Math.round(quality.level_db),
    Math.round(quality.level_db - quality.noise_db), (quality.clipped * 100).toFixed(1));
  const warnings = quality.warnings.map((name) => element('li', {}, t(`voices.warning_${name}`)));
  const found = element('div', { class: 'voices-quality' }, element('p', {}, figures));
  if (warnings.length) found.append(element('ul', { class: 'voices-warnings' }, ...warnings));
  else found.append(element('p', { class: 'voices-good' }, t('voices.good')));
  return found;
}
