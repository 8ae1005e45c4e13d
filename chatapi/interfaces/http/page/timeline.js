/** The timings of a turn: a bar, and a chart with labels and numbers. */

import { drawing, element, icon } from './dom.js';
import { spell } from './durations.js';
import { t } from './texts.js';

/** The timing marks in their usual order; `stages` of the dictionaries has label and meaning of the time before each. */
const STAGES = ['admitted', 'transcript', 'endpoint', 'first_token', 'first_sentence', 'first_audio', 'end'];

/** Shortest stage that is shown, in seconds; an idle box admits in far less. */
const WORTH_SHOWING = 0.001;

/**
 * @typedef {object} Stage
 * @property {string} mark
 * @property {string} label
 * @property {string} meaning
 * @property {number} from   seconds since the request was received
 * @property {number} until
 */

/** @returns {Stage[]} */
export function stages(timings) {
  // Preemptive generation starts before the end of turn is certain, so the order of marks varies.
  const reached = STAGES.filter((mark) => Number.isFinite(timings[mark])).sort((a, b) => timings[a] - timings[b]);
  let from = 0;
  const all = reached.map((mark) => {
    const [label, meaning] = t(`stages.${mark}`);
    const until = Math.max(from, timings[mark]);
    const stage = { mark, label, meaning, from, until };
    from = until;
    return stage;
  });
  return all.filter((stage) => stage.until - stage.from >= WORTH_SHOWING);
}

/**
 * @param {object} end  the turn's `end` event
 * @param {{text: number|null, sound: number|null}} here  seconds from sending until this page showed text and played audio
 */
export function timeline(end, here) {
  const found = stages(end.timings);
  const total = found.at(-1)?.until || 0.001;
  const summary = element('summary', {}, bar(found, total), gist(end.timings), icon('chevron'));
  const details = element('details', { class: 'timeline' }, summary, chart(found, total), notes(end, here));
  details.addEventListener('toggle', () => details.open && details.scrollIntoView({ block: 'nearest' }));
  return details;
}

function gist({ first_token: token, first_audio: audio, endpoint, spoken, end }) {
  const voice = audio != null;
  // A preemptive response is held back until the end of turn.
  const first = voice ? t('timeline.first_audio', spell(Math.max(audio, endpoint ?? 0))) : token != null ? t('timeline.first_text', spell(token)) : '';
  const complete = end != null ? t('timeline.complete', spell(end)) : '';
  const parts = [first, complete, voice && spoken != null ? t('timeline.long', spell(spoken)) : ''].filter(Boolean);
  return element('span', { class: 'gist' }, ...parts.map((words) => element('span', {}, `${words} `)));
}

/** The stages side by side; decorative, because the chart below has the same data as text. */
function bar(found, total) {
  const svg = drawing('svg', { class: 'stages', viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  for (const { mark, from, until } of found) svg.append(segment(mark, from, until, total));
  return svg;
}

function segment(mark, from, until, total) {
  const x = (100 * from) / total;
  const width = Math.max(0.6, (100 * (until - from)) / total);
  return drawing('rect', { 'data-mark': mark, x: String(Math.min(x, 99.4)), y: '0', width: String(width), height: '8' });
}

function chart(found, total) {
  const list = element('ol', { class: 'chart' });
  for (const { mark, label, meaning, from, until } of found) {
    const track = drawing('svg', { class: 'stages', viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    track.append(segment(mark, from, until, total));
    const name = element('span', { class: 'stage', title: meaning }, label, element('span', { class: 'unseen' }, ` (${meaning}) `));
    list.append(element('li', { 'data-mark': mark }, name, track, element('span', { class: 'time' }, spell(until - from))));
  }
  return list;
}

function notes({ timings, usage }, here) {
  const parts = [];
  if (timings.audio != null) {
    const speechEnd = timings.speech_end == null ? '' : spell(timings.speech_end);
    parts.push(t('timeline.recording', spell(timings.audio), speechEnd));
  }
  if (timings.spoken != null) parts.push(t('timeline.spoken', spell(timings.spoken)));
  if (usage?.completion_tokens) parts.push(t('timeline.tokens', usage.completion_tokens));
  const local = [];
  if (here.text != null) local.push(t('timeline.text_after', spell(here.text)));
  if (here.sound != null) local.push(t('timeline.audio_after', spell(here.sound)));
  if (local.length) parts.push(t('timeline.here', local.join(', ')));
  return element('p', { class: 'notes' }, parts.join(' '));
}
