/** The view Voices: adds voices from clips, lists them, and converts recordings. */

import { element, loadStyle } from '../dom.js';
import { t } from '../texts.js';
import { VoiceForm } from './form.js';
import { VoiceList } from './list.js';
import { Trial } from './trial.js';

export const title = t('voices.title');

// The rules have to be there before anything is shown; those of the view come last.
await loadStyle('forms.css');
await loadStyle('voices/voices.css');

/** @type {{close: () => void}[]} */
let parts = [];

/** @param {import('../frame.js').Mount} frame */
export function mount(root, frame) {
  const trial = new Trial(frame);
  const list = new VoiceList(frame, (voices) => trial.show(voices));
  const form = new VoiceForm(frame, () => list.refresh());
  const page = element('div', { class: 'column voices-page' }, list.root, trial.root, form.root);
  root.replaceChildren(element('div', { class: 'scroller', tabindex: '-1' }, page));
  frame.onload(() => list.refresh());
  parts = [trial, form];
}

export function unmount() {
  for (const each of parts) each.close();
  parts = [];
}
