/** The requests of the view. */

import { wav } from '../wav.js';

/** Samples that are listed of a word. */
const MOST = 1000;

export class CommandRequests {
  #frame;

  /** @param {import('../frame.js').Mount} frame */
  constructor(frame) {
    this.#frame = frame;
  }

  /** The recognized words and the version that recognizes them. */
  commands() {
    return this.#json('commands');
  }

  versions() {
    return this.#json('commands/versions');
  }

  async samples() {
    const { samples } = await this.#json(`commands/samples?limit=${MOST}`);
    return samples;
  }

  submit(label, clip) {
    return this.#post(`commands/samples?label=${encodeURIComponent(label)}`, clip);
  }

  classify(recording) {
    return this.#post('commands/classify', wav(recording));
  }

  async sound({ id }) {
    return (await this.#request(`commands/samples/${id}/audio`)).blob();
  }

  remove({ id }) {
    return this.#frame.api.delete(`commands/samples/${id}`);
  }

  accept({ id }) {
    return this.#frame.api.send('PATCH', `commands/samples/${id}`, { state: 'accepted' });
  }

  train() {
    return this.#frame.api.send('POST', 'commands/train');
  }

  /** The unfinished training; null: there is none. */
  async training() {
    const { jobs } = await this.#json('jobs?kind=command_training&limit=1');
    const [latest] = jobs;
    return latest && !['done', 'failed', 'cancelled'].includes(latest.state) ? latest : null;
  }

  job(id) {
    return this.#json(`jobs/${id}`);
  }

  cancel(id) {
    return this.#frame.api.send('POST', `jobs/${id}/cancel`);
  }

  activate(number) {
    return this.#frame.api.send('POST', `commands/versions/${number}/activate`);
  }

  rollBack() {
    return this.#frame.api.send('POST', 'commands/rollback');
  }

  async #json(path) {
    return (await this.#request(path)).json();
  }

  async #post(path, clip) {
    const headers = { 'Content-Type': clip.type || 'audio/wav' };
    return (await this.#request(path, { method: 'POST', body: clip, headers })).json();
  }

  #request(path, options = {}) {
    return this.#frame.api.request(path, { ...options, signal: this.#frame.signal });
  }
}
