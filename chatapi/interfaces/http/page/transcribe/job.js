/** What the page shows of a job: its state in words, its fault, and what can be done with it. */

import { reasonOf } from '../faults.js';
import { number, t } from '../texts.js';

export const FORMATS = ['txt', 'srt', 'vtt', 'json', 'tsv'];
const FINISHED = ['done', 'failed', 'cancelled'];

export function hasEnded({ state }) {
  return FINISHED.includes(state);
}

/** State, progress and time left of a job, as one line. */
export function stateOf(job) {
  if (job.wanted === 'pause') return t('transcribe.pausing');
  if (job.wanted === 'cancel') return t('transcribe.cancelling');
  if (job.state === 'running') {
    const left = job.seconds_left == null ? '' : t('transcribe.left', span(job.seconds_left));
    return [t('transcribe.states.running'), percent(job.progress), left].filter(Boolean).join(' · ');
  }
  if (job.state === 'queued' && job.failure) return t('transcribe.tried_again');
  const part = job.state === 'paused' ? percent(job.progress) : '';
  return [t(`transcribe.states.${job.state}`), part].filter(Boolean).join(' · ');
}

/** Why a job failed and what helps, as one sentence; '': it did not. */
export function failureOf({ failure, state }) {
  return failure && state !== 'done' ? reasonOf(failure, true) : '';
}

export function percent(fraction) {
  return `${number(Math.floor(100 * fraction))}\u00a0%`;
}

/** A time span in the largest unit that fits. */
export function span(seconds) {
  if (seconds < 60) return t('transcribe.seconds', Math.max(1, Math.round(seconds)));
  if (seconds < 3600) return t('transcribe.minutes', Math.round(seconds / 60));
  return t('transcribe.hours', number(seconds / 3600, 1));
}

/** Bytes in the largest unit that fits. */
export function bytes(count) {
  if (count < 1e6) return `${number(count / 1e3)}\u00a0kB`;
  return count < 1e9 ? `${number(count / 1e6, 1)}\u00a0MB` : `${number(count / 1e9, 2)}\u00a0GB`;
}
