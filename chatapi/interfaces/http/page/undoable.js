/** Deletions that happen a moment later, so that they can be undone; at the latest when the page is left. */

import { Fault } from './faults.js';

/** Time in which a deletion can be undone, in seconds. */
const SECONDS = 8;

export class UndoableDeletions {
  /** Id -> its deletion, which has not happened yet or fails. */
  #leaving = new Map();
  #last = null;

  constructor() {
    window.addEventListener('pagehide', () => this.#last?.now());
  }

  /** Whether what has this id is not to be shown any more. */
  isLeaving(id) {
    return this.#leaving.has(id);
  }

  /** The latest deletion that can still be undone, or null. */
  get last() {
    return this.#last;
  }

  /**
   * One at a time can be undone: the one before happens now.
   * @param {{id: string}} item
   * @param {() => Promise<void>} remove  deletes it on the box, also while the page is left
   * @param {(fault: Fault) => void} onfault
   */
  add(item, remove, onfault) {
    this.#last?.now();
    let finish;
    const over = new Promise((resolve) => { finish = resolve; });
    const end = () => {
      clearTimeout(timer);
      if (this.#last === deletion) this.#last = null;
    };
    const deletion = {
      item,
      over,
      undo: () => {
        end();
        this.#leaving.delete(item.id);
        finish();
      },
      now: async () => {
        end();
        try {
          await remove();
        } catch (error) {
          this.#leaving.delete(item.id);
          onfault(Fault.from(error));
        }
        finish();
      },
    };
    const timer = setTimeout(() => deletion.now(), 1000 * SECONDS);
    this.#leaving.set(item.id, deletion);
    this.#last = deletion;
  }
}
