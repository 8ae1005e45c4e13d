/** The view Transcribe: the list of recordings, and the transcript of one of them. */

import { loadStyle } from '../dom.js';
import { t } from '../texts.js';
import { Recordings } from './recordings.js';
import { Recording } from './recording.js';

export const title = t('transcribe.title');

// The rules have to be there before anything is shown; those of the view come last.
await loadStyle('forms.css');
await loadStyle('transcribe/transcribe.css');

let shown = null;

/** @param {import('../frame.js').Mount} frame */
export function mount(root, frame) {
  const [job] = frame.route;
  shown = job ? new Recording(root, frame, job) : new Recordings(root, frame);
}

export function unmount() {
  shown.close();
  shown = null;
}
