/** The view Captions: chooses captions, shows them large, and starts or ends them. */

import { loadStyle } from '../dom.js';
import { t } from '../texts.js';
import { CaptionBoard } from './board.js';
import { CaptionList } from './list.js';

export const title = t('captions.title');

// Its rules have to be there before anything is shown.
await loadStyle('captions/captions.css');

/** @type {{close: () => void}|null} */
let shown = null;

/** @param {import('../frame.js').Mount} frame */
export function mount(root, frame) {
  const [id] = frame.route;
  shown = id ? new CaptionBoard(root, frame, id) : new CaptionList(root, frame);
}

export function unmount() {
  shown?.close();
  shown = null;
}
