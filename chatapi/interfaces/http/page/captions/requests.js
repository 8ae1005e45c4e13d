/** The requests of captions. */

import { Fault } from '../faults.js';
import { preferences } from '../preferences.js';
import { serverSentEvents } from '../sse.js';

/** Time before the first attempt to connect again, doubled for each further one, and its bound, in milliseconds. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10000;

export async function listCaptions(signal) {
  return (await request('captions', { signal })).json();
}

export async function startCaptions(wanted, signal) {
  const headers = { 'Content-Type': 'application/json' };
  return (await request('captions', { method: 'POST', headers, body: JSON.stringify(wanted), signal })).json();
}

export async function endCaptions(id, signal) {
  await request(`captions/${encodeURIComponent(id)}`, { method: 'DELETE', signal });
}

/**
 * The events of captions until they have ended; connects again behind the last event when the connection breaks off.
 * @param {(connected: boolean) => void} onconnection
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* captionEvents(id, signal, onconnection) {
  let last = '';
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      const headers = { Accept: 'text/event-stream', ...(last ? { 'Last-Event-ID': last } : {}) };
      const response = await request(`captions/${encodeURIComponent(id)}/events`, { headers, signal });
      onconnection(true);
      for await (const { name, data, id: number } of serverSentEvents(response.body)) {
        pause = FIRST_PAUSE;
        if (number) last = number;
        if (name === 'error') break;
        yield { name, data: JSON.parse(data) };
        if (name === 'end') return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const fault = Fault.from(error);
      if (fault.status && fault.status < 500) throw fault;
    }
    onconnection(false);
    await sleep(pause, signal);
    pause = Math.min(LONGEST_PAUSE, pause * 2);
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

async function request(path, { headers = {}, ...rest }) {
  const authorization = preferences.key ? { Authorization: `Bearer ${preferences.key}` } : {};
  const url = new URL(path, location.origin + location.pathname);
  const response = await fetch(url, { ...rest, cache: 'no-store', headers: { ...headers, ...authorization } });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: response.statusText, status: response.status }));
  throw Fault.fromProblem(problem);
}
