/** Client of the server's HTTP API; errors become faults. */

import { Fault } from './faults.js';
import { serverSentEvents } from './sse.js';

/**
 * @typedef {object} Question
 * @property {string} [prompt]    the typed question, or
 * @property {Blob} [recording]   the recorded question
 * @property {Object<string, string>} options  reply, conversation, voice, language
 */

export class Api {
  /** @param {() => string} key  returns the API key, or '' */
  constructor(key) {
    this.#key = key;
  }

  #key;

  /** Fetches the JSON document at a path. */
  async get(path) {
    return (await this.#fetch(path, {})).json();
  }

  /** Sends JSON, or nothing, and returns the JSON document of the response. */
  async send(method, path, body) {
    const json = { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
    return (await this.#fetch(path, { method, ...(body === undefined ? {} : json) })).json();
  }

  /** The response for a path, for everything that is no JSON. */
  request(path, options = {}) {
    return this.#fetch(path, options);
  }

  /** Whether requests carry an API key, which an element such as `audio` cannot send. */
  get hasKey() {
    return this.#key() !== '';
  }

  /** The address of a path, and the headers of a request, for those that `fetch` cannot send. */
  url(path) {
    return new URL(path, location.origin + location.pathname);
  }

  get headers() {
    const key = this.#key();
    return key ? { Authorization: `Bearer ${key}` } : {};
  }

  /**
   * Yields the events of a stream until it ends.
   * @param {string} path
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<{name: string, data: any}>}
   */
  async *events(path, signal) {
    const response = await this.#fetch(path, { headers: { Accept: 'text/event-stream' }, signal });
    for await (const { name, data } of serverSentEvents(response.body)) yield { name, data: JSON.parse(data) };
  }

  async delete(path) {
    await this.#fetch(path, { method: 'DELETE' });
  }

  /**
   * Asks a question and yields the events of the turn. Aborting the signal cancels the turn on the server.
   * @param {Question} question
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<{name: string, data: any}>}
   */
  async *turn({ prompt, recording, options }, signal) {
    const response = await this.#fetch(...requestOf(prompt, recording, options, signal));
    if (!response.headers.get('Content-Type')?.startsWith('text/event-stream')) throw new Fault('not_events');
    let complete = false;
    try {
      for await (const { name, data } of serverSentEvents(response.body)) {
        const value = JSON.parse(data);
        if (name === 'error') throw Fault.fromProblem(value);
        complete ||= name === 'end';
        yield { name, data: value };
      }
    } catch (error) {
      throw error instanceof TypeError ? new Fault('broken_off', { detail: error.message }) : error;
    }
    if (!complete) throw new Fault('broken_off');
  }

  async #fetch(path, { headers = {}, ...rest }) {
    // Without credentials from a browser's own password prompt in the address, which fetch rejects.
    const response = await fetch(this.url(path), {
      ...rest,
      cache: 'no-store',
      headers: { ...headers, ...this.headers },
    });
    if (!response.ok) throw await faultOf(response);
    return response;
  }
}

function requestOf(prompt, recording, options, signal) {
  const headers = { Accept: 'text/event-stream' };
  if (recording) {
    const query = new URLSearchParams({ ...options, stream: 'true' });
    headers['Content-Type'] = recording.type;
    return [`completion?${query}`, { method: 'POST', body: recording, headers, signal }];
  }
  headers['Content-Type'] = 'application/json';
  const body = JSON.stringify({ ...options, prompt, stream: true });
  return ['completion', { method: 'POST', body, headers, signal }];
}

async function faultOf(response) {
  const seconds = Number.parseFloat(response.headers.get('Retry-After') ?? '');
  const retryAfter = Number.isFinite(seconds) ? seconds : response.status === 503 ? 2 : null;
  const type = response.headers.get('Content-Type') ?? '';
  if (type.startsWith('application/problem+json')) return Fault.fromProblem(await response.json(), retryAfter);
  return new Fault(`http_${response.status}`, { status: response.status, detail: response.statusText, retryAfter });
}
