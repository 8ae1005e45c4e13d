/** The view Commands: teaches words, trains, shows figures, and switches versions. */

import { element, loadStyle } from '../dom.js';
import { t } from '../texts.js';
import { CommandRequests } from './requests.js';
import { TeachForm } from './teach.js';
import { Training } from './training.js';
import { CommandTrial } from './trial.js';
import { VersionList } from './versions.js';
import { WordList } from './words.js';

export const title = t('commands.title');

// Its rules have to be there before anything is shown.
await loadStyle('commands/commands.css');

/** @type {{close: () => void}[]} */
let parts = [];

/** @param {import('../frame.js').Mount} frame */
export function mount(root, frame) {
  const requests = new CommandRequests(frame);
  const refresh = async () => {
    const [known, found, samples] = await Promise.all([requests.commands(), requests.versions(), requests.samples()]);
    if (frame.signal.aborted) return found;
    form.show(countsOf(samples), known.labels);
    words.show(known.labels, samples, sharesOf(found));
    versions.show(found);
    return found;
  };
  const form = new TeachForm(frame, requests, refresh);
  const words = new WordList(frame, requests, refresh);
  const versions = new VersionList(frame, requests, refresh);
  const training = new Training(frame, requests, refresh);
  const trial = new CommandTrial(frame, requests);
  const page = element('div', { class: 'commands-page' }, element('div', { class: 'commands-cards' }, form.root, training.root, trial.root), words.root, versions.root);
  root.replaceChildren(element('div', { class: 'scroller', tabindex: '-1' }, page));
  frame.onload(async () => {
    await refresh();
    await training.resume();
  });
  parts = [form, words, trial];
}

export function unmount() {
  for (const each of parts) each.close();
  parts = [];
}

/** Accepted samples of each word. */
function countsOf(samples) {
  const counts = {};
  for (const { label, state } of samples) if (state === 'accepted') counts[label] = (counts[label] ?? 0) + 1;
  return counts;
}

/** Share of right labels of each word, by the active version. */
function sharesOf({ active, versions }) {
  const shown = versions.find(({ number }) => number === active);
  return shown?.figures.new.words ?? versions.at(-1)?.figures.first.words ?? {};
}
