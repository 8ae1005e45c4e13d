/** The time of a place as a bar: heard, missing and not monitored, with its detections; and the same in words. */

import { drawing, element } from '../dom.js';
import { number, t } from '../texts.js';
import { shortMoment } from './times.js';

const WIDTH = 1000;
/** Height of the marks of detections and of the bar. */
const MARKS = 12;
const BAR = 22;
/** Gaps that are listed in words. */
const MOST_GAPS = 20;

export class Coverage {
  root = element('div', { class: 'streams-coverage' });
  #name;

  constructor(name) {
    this.#name = name;
  }

  /**
   * @param {object} coverage  of `/monitors/ID/coverage`
   * @param {object[]} detections
   */
  show(coverage, detections) {
    const summary = this.#summary(coverage, detections);
    this.root.replaceChildren(this.#bar(coverage, detections, summary), axis(coverage), this.#words(coverage, summary));
  }

  #bar({ from, to, stretches }, detections, summary) {
    const x = (time) => (WIDTH * (Math.min(to, Math.max(from, time)) - from)) / (to - from);
    const bar = drawing('svg', {
      class: 'streams-bar', viewBox: `0 0 ${WIDTH} ${MARKS + BAR}`, preserveAspectRatio: 'none', role: 'img',
      'aria-label': `${t('streams.coverage_of', this.#name)}: ${summary}`,
    });
    for (const { start, end, state } of stretches) {
      // A gap of a second must be seen in a bar of a week.
      const width = Math.max(state === 'missing' ? 2 : 0.5, x(end) - x(start));
      bar.append(drawing('rect', { class: `streams-${state}`, x: x(start), y: MARKS, width, height: BAR }));
    }
    for (const { start, state } of detections) {
      bar.append(drawing('rect', { class: `streams-mark streams-mark-${state}`, x: x(start) - 2, y: 0, width: 4, height: MARKS - 2 }));
    }
    return bar;
  }

  #summary({ from, to, heard_seconds: heard, missing_seconds: missing, unmonitored_seconds: unmonitored }, detections) {
    const share = (seconds) => number((100 * seconds) / (to - from), 1);
    const lost = Object.values(missing).reduce((sum, each) => sum + each, 0);
    const rest = unmonitored > 0 ? t('streams.unmonitored', share(unmonitored)) : '';
    return `${t('streams.coverage', share(heard), share(lost))}${rest}; ${t('streams.found', detections.length)}`;
  }

  #words({ gaps }, summary) {
    const words = element('div', { class: 'streams-words' }, element('span', {}, summary));
    const missing = gaps.filter((each) => each.reason !== 'unmonitored');
    if (!missing.length) return words;
    const listed = missing.slice(-MOST_GAPS).reverse().map(({ from, to, reason }) =>
      element('li', {}, t('streams.gap', shortMoment(from), shortMoment(to), t(`streams.reasons.${reason}`))));
    if (missing.length > MOST_GAPS) listed.push(element('li', {}, t('streams.more_gaps', missing.length - MOST_GAPS)));
    words.append(element('details', {}, element('summary', {}, t('streams.gaps', missing.length)), element('ul', {}, ...listed)));
    return words;
  }
}

function axis({ from, to }) {
  const times = [from, (from + to) / 2, to].map((each) => element('span', {}, shortMoment(each)));
  return element('div', { class: 'streams-axis', 'aria-hidden': 'true' }, ...times);
}

/** What the colours mean. */
export function legend() {
  const entry = (state) => element('li', {}, element('i', { class: `streams-key streams-key-${state}` }), t(`streams.legend.${state}`));
  return element('ul', { class: 'streams-legend' }, ...['scored', 'heard', 'missing', 'unmonitored', 'detection'].map(entry));
}
