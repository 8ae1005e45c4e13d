/** Where an answer's time went: a bar to glance at, and a chart with words and numbers to open. */

import { drawing, element, icon } from './dom.js';
import { spell } from './durations.js';

/** The timings's marks in the order they are usually reached, and what the time before each was spent on. */
const STAGES = [
  ['admitted', 'Waited', 'for a free place on the box'],
  ['transcript', 'Heard', 'turned your speech into words'],
  ['endpoint', 'Pause', 'made sure that you had finished'],
  ['first_token', 'Thinking', 'until the first word of the answer'],
  ['first_sentence', 'Sentence', 'until enough of it to say'],
  ['first_audio', 'Voice', 'until it began to sound'],
  ['end', 'The rest', 'wrote and said what was left'],
];

/** Seconds: an idle box admits in far less. */
const WORTH_SHOWING = 0.001;

/**
 * @typedef {object} Stage
 * @property {string} mark
 * @property {string} label
 * @property {string} meaning
 * @property {number} from   seconds from the question's acceptance
 * @property {number} until
 */

/** @returns {Stage[]} */
export function stages(timings) {
  // A live conversation thinks in your pauses, before it is known whether you have finished.
  const reached = STAGES.filter(([mark]) => Number.isFinite(timings[mark])).sort(([a], [b]) => timings[a] - timings[b]);
  let from = 0;
  const all = reached.map(([mark, label, meaning]) => {
    const until = Math.max(from, timings[mark]);
    const stage = { mark, label, meaning, from, until };
    from = until;
    return stage;
  });
  return all.filter((stage) => stage.until - stage.from >= WORTH_SHOWING);
}

/**
 * @param {object} end  the turn's `end` event
 * @param {{text: number|null, sound: number|null}} here  seconds from sending until this page showed text, made sound
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
  // What was made in a pause is held back until the turn is over.
  const first = voice ? `First sound ${spell(Math.max(audio, endpoint ?? 0))}` : token != null ? `First words ${spell(token)}` : '';
  const made = end != null ? `${voice ? 'made' : 'written'} in ${spell(end)}` : '';
  const told = [first, made, voice && spoken != null ? `${spell(spoken)} to hear` : ''].filter(Boolean);
  return element('span', { class: 'gist' }, ...told.map((words) => element('span', {}, `${words} `)));
}

/** Stages side by side; for the eye alone, the chart below says the same in words. */
function bar(found, total) {
  const svg = drawing('svg', { class: 'stages', viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  for (const { mark, from, until } of found) svg.append(stretch(mark, from, until, total));
  return svg;
}

function stretch(mark, from, until, total) {
  const x = (100 * from) / total;
  const width = Math.max(0.6, (100 * (until - from)) / total);
  return drawing('rect', { 'data-mark': mark, x: String(Math.min(x, 99.4)), y: '0', width: String(width), height: '8' });
}

function chart(found, total) {
  const list = element('ol', { class: 'chart' });
  for (const { mark, label, meaning, from, until } of found) {
    const track = drawing('svg', { class: 'stages', viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    track.append(stretch(mark, from, until, total));
    const name = element('span', { class: 'stage', title: meaning }, label, element('span', { class: 'unseen' }, ` (${meaning}) `));
    list.append(element('li', { 'data-mark': mark }, name, track, element('span', { class: 'time' }, spell(until - from))));
  }
  return list;
}

function notes({ timings, usage }, here) {
  const told = [];
  if (timings.audio != null) {
    const speech = timings.speech_end == null ? '' : `; its speech ends at ${spell(timings.speech_end)}`;
    told.push(`Your recording is ${spell(timings.audio)} long${speech}.`);
  }
  if (timings.spoken != null) told.push(`The answer takes ${spell(timings.spoken)} to say.`);
  if (usage?.completion_tokens) told.push(`${usage.completion_tokens} tokens written.`);
  const seen = [];
  if (here.text != null) seen.push(`text after ${spell(here.text)}`);
  if (here.sound != null) seen.push(`sound after ${spell(here.sound)}`);
  if (seen.length) told.push(`On this device, the network included: ${seen.join(', ')}.`);
  return element('p', { class: 'notes' }, told.join(' '));
}
