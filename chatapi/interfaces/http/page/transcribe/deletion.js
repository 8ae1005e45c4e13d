/** Deletes jobs: a running one is cancelled first. */

import { Fault } from '../faults.js';
import { UndoableDeletions } from '../undoable.js';
import { hasEnded } from './job.js';

/** Interval between looks whether a cancelled job has ended, and the most looks. */
const LOOK_SECONDS = 0.5;
const MOST_LOOKS = 60;

/** The deletions outlive the view. */
export const deletions = new UndoableDeletions();

/** @param {import('../api.js').Api} api */
export async function remove(api, job) {
  // Sent also while the page is left.
  const keepalive = true;
  try {
    if (!hasEnded(job)) {
      await api.request(`jobs/${job.id}/cancel`, { method: 'POST', keepalive }).catch((error) => {
        if (Fault.from(error).status !== 409) throw error;
      });
      for (let looks = 0; looks < MOST_LOOKS && !hasEnded(await api.get(`jobs/${job.id}`)); looks += 1) {
        await new Promise((resolve) => { setTimeout(resolve, 1000 * LOOK_SECONDS); });
      }
    }
    await api.request(`jobs/${job.id}`, { method: 'DELETE', keepalive });
  } catch (error) {
    if (Fault.from(error).code !== 'unknown_job') throw error;
  }
}
