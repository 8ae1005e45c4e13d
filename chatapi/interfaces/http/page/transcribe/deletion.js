/** Deletes jobs a moment later, so that a deletion can be undone; at the latest when the page is left. */

import { Fault } from '../faults.js';
import { hasEnded } from './job.js';

/** Time in which a deletion can be undone, in seconds. */
const SECONDS = 8;
/** Interval between looks whether a cancelled job has ended, and the most looks. */
const LOOK_SECONDS = 0.5;
const MOST_LOOKS = 60;

/** Id of a job -> its deletion, which has not happened yet or fails. */
const leaving = new Map();
let last = null;

/** Whether a job is not to be shown any more. */
export function isLeaving(job) {
  return leaving.has(job);
}

/** The latest deletion that can still be undone, or null. */
export function undo() {
  return last;
}

/**
 * @param {import('../api.js').Api} api
 * @param {(fault: Fault) => void} onfault
 */
export function deleteLater(api, job, onfault) {
  // One at a time can be undone; the one before happens now.
  last?.now();
  let finish;
  const over = new Promise((resolve) => { finish = resolve; });
  const end = () => {
    clearTimeout(timer);
    if (last === deletion) last = null;
  };
  const deletion = {
    job,
    over,
    undo() {
      end();
      leaving.delete(job.id);
      finish();
    },
    async now() {
      end();
      try {
        await remove(api, job);
      } catch (error) {
        leaving.delete(job.id);
        if (Fault.from(error).code !== 'unknown_job') onfault(Fault.from(error));
      }
      finish();
    },
  };
  const timer = setTimeout(() => deletion.now(), 1000 * SECONDS);
  leaving.set(job.id, deletion);
  last = deletion;
}

async function remove(api, job) {
  // Sent also while the page is left.
  const keepalive = true;
  if (!hasEnded(job)) {
    await api.request(`jobs/${job.id}/cancel`, { method: 'POST', keepalive }).catch((error) => {
      if (Fault.from(error).status !== 409) throw error;
    });
    for (let looks = 0; looks < MOST_LOOKS && !hasEnded(await api.get(`jobs/${job.id}`)); looks += 1) {
      await new Promise((resolve) => { setTimeout(resolve, 1000 * LOOK_SECONDS); });
    }
  }
  await api.request(`jobs/${job.id}`, { method: 'DELETE', keepalive });
}

window.addEventListener('pagehide', () => last?.now());
