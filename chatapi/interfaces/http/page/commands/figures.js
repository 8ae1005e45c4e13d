/** Drawings of a version's figures: bars, the confusion matrix, and the training curve. */

import { drawing, element } from '../dom.js';
import { number, t } from '../texts.js';

const WIDTH = 320;
const HEIGHT = 120;
const EDGE = 8;

/** A bar for a share, 0 to 1; decorative, because the share stands beside it. */
export function bar(share) {
  const length = Math.max(1, Math.round(100 * share));
  const kind = share >= 0.9 ? 'good' : share >= 0.7 ? 'fair' : 'poor';
  return drawing('svg', { class: `commands-bar ${kind}`, viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    drawing('rect', { class: 'all', width: '100', height: '6', rx: '3' }), drawing('rect', { class: 'part', width: String(length), height: '6', rx: '3' }));
}

/**
 * The training curve.
 * @param {[number, number][]} curve  steps and loss
 */
export function trainingCurve(curve) {
  const [first, last] = [curve[0], curve[curve.length - 1]];
  const top = Math.max(...curve.map(([, loss]) => loss), 1e-6);
  const x = (steps) => EDGE + ((WIDTH - 2 * EDGE) * (steps - first[0])) / Math.max(1, last[0] - first[0]);
  const y = (loss) => HEIGHT - EDGE - ((HEIGHT - 2 * EDGE) * loss) / top;
  const points = curve.map(([steps, loss]) => `${x(steps).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
  const words = t('commands.curve_of', number(first[1], 3), number(last[1], 3), last[0]);
  return element('figure', { class: 'commands-figure' },
    element('figcaption', {}, t('commands.curve')),
    drawing('svg', { class: 'commands-curve', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': words },
      drawing('path', { class: 'axis', d: `M${EDGE} ${EDGE}V${HEIGHT - EDGE}H${WIDTH - EDGE}` }),
      drawing('polyline', { class: 'line', points })),
    element('p', { class: 'commands-soft' }, words));
}

/**
 * The confusion matrix as a table.
 * @param {Object<string, Object<string, number>>} confusion  label -> what its clips were taken for -> how often
 */
export function confusionMatrix(confusion, labels) {
  const rows = labels.filter((label) => confusion[label]);
  const columns = labels.filter((label) => rows.includes(label) || rows.some((row) => confusion[row][label]));
  const head = element('tr', {}, element('th', { scope: 'col' }, t('commands.said_word')),
    ...columns.map((label) => element('th', { scope: 'col', class: 'taken' }, element('span', {}, nameOf(label)))));
  const body = rows.map((label) => {
    const all = Object.values(confusion[label]).reduce((sum, count) => sum + count, 0);
    return element('tr', {}, element('th', { scope: 'row' }, nameOf(label)), ...columns.map((taken) => {
      const count = confusion[label][taken] ?? 0;
      const shade = count ? String(Math.ceil((5 * count) / all)) : '0';
      const words = count ? number(count) : '';
      return element('td', { 'data-shade': shade, ...(taken === label ? { class: 'right' } : {}) }, words);
    }));
  });
  const table = element('table', { class: 'commands-matrix' }, element('caption', {}, t('commands.matrix')),
    element('thead', {}, head), element('tbody', {}, ...body));
  return element('div', { class: 'commands-wide', tabindex: '0', role: 'region', 'aria-label': t('commands.matrix') }, table);
}

function nameOf(label) {
  return label === 'unknown' ? t('commands.unknown') : label;
}
