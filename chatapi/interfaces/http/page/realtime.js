/** The box's Realtime interface: events over a WebSocket, both ways. */

import { Fault } from './faults.js';

/** Samples a second, both ways. */
export const RATE = 24_000;
/** Bytes that were not taken, 4 s of sound: a network that went away says nothing. */
const STUCK = 256 * 1024;
/** Milliseconds a handshake may take; the box itself waits 10 s for its models. */
const HANDSHAKE = 20_000;
/** How a connection ends that the box ends itself (RFC 6455, 7.4); its last error says why. */
const TOLD = [1000, 1008, 1011, 1013];

export class Realtime {
  #socket;
  #told;
  #error = null;
  /** Whether the box has taken the session's settings. */
  ready = false;
  #timer;
  /** When the first sample was captured, in ms of the page's clock; samples are counted from there. */
  #zero = 0;
  #sent = 0;

  /**
   * @param {{key: string, conversation: string, voice: string, language: string}} wanted  '' is as the box chooses
   * @param {object} told
   * @param {() => void} told.onready
   * @param {(event: {type: string}) => void} told.onevent
   * @param {(fault: Fault) => void} told.onclosed  not_connected when it never was open, broken_off when it broke
   */
  constructor(wanted, told) {
    const { key, conversation } = wanted;
    const settings = session(wanted);
    this.#told = told;
    const protocols = key ? ['realtime', `openai-insecure-api-key.${token(key)}`] : ['realtime'];
    this.#socket = new WebSocket(address(conversation), protocols);
    this.#socket.onmessage = ({ data }) => this.#take(JSON.parse(data), settings);
    this.#socket.onclose = ({ code }) => this.#over(code);
    this.#timer = setTimeout(() => this.#broke(), HANDSHAKE);
  }

  /** @param {string} type */
  send(type, fields = {}) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  /** The microphone's next samples. */
  hear(samples) {
    if (!this.ready) return;
    if (this.#socket.bufferedAmount > STUCK) return this.#broke();
    this.#sent += samples.length;
    this.#zero = performance.now() - (1000 * this.#sent) / RATE;
    this.send('input_audio_buffer.append', { audio: base64(samples) });
  }

  /** The page's clock when what the box calls so many milliseconds of sound was captured. */
  captured(milliseconds) {
    return this.#zero + milliseconds;
  }

  /** Leave; nothing more is told. */
  close() {
    this.#told = { onready() {}, onevent() {}, onclosed() {} };
    this.#broke();
  }

  #take(event, settings) {
    if (event.type === 'session.created') {
      this.send('session.update', { session: settings });
    } else if (event.type === 'session.updated' && !this.ready) {
      clearTimeout(this.#timer);
      this.ready = true;
      this.#told.onready();
    } else if (event.type === 'error') {
      this.#error = faultOf(event.error);
      if (this.ready) this.#told.onevent(event);
      // What was asked for cannot be, so that the rest would not be what was meant.
      else this.#end(this.#error);
    } else {
      this.#told.onevent(event);
    }
  }

  /** Does not wait for the other side, which may be gone. */
  #broke = () => this.#end(new Fault(this.ready ? 'broken_off' : 'not_connected'));

  #over(code) {
    const said = TOLD.includes(code) ? this.#error : null;
    this.#end(said ?? new Fault(this.ready ? 'broken_off' : 'not_connected'));
  }

  #end(fault) {
    clearTimeout(this.#timer);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    const { onclosed } = this.#told;
    this.#told = { onready() {}, onevent() {}, onclosed() {} };
    onclosed(fault);
  }
}

/** Why a connection could not be opened: browsers do not tell. */
export async function unopened(api) {
  try {
    await api.get('ready');
    return new Fault('no_websocket');
  } catch (error) {
    return Fault.from(error);
  }
}

/** An error of the interface, as a fault. */
export function faultOf({ type, code, message }) {
  return new Fault(code ?? 'error', { detail: message, status: type === 'invalid_request_error' ? 422 : 500 });
}

function address(conversation) {
  const found = new URL('v1/realtime?model=default', location.origin + location.pathname);
  found.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  if (conversation) found.searchParams.set('conversation', conversation);
  return found;
}

/** A subprotocol may hold no more than RFC 9110 calls a token. */
function token(key) {
  return encodeURIComponent(key).replace(/[()]/g, (bracket) => `%${bracket.charCodeAt(0).toString(16)}`);
}

/** Samples as 16-bit little-endian PCM in base64. */
function base64(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, index) => view.setInt16(2 * index, 32767 * Math.min(1, Math.max(-1, sample)), true));
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

/** What `session.update` sets. */
function session({ voice, language }) {
  const input = language ? { transcription: { language } } : {};
  return { type: 'realtime', audio: { input, output: { voice: voice || 'default' } }, chatapi: { pausing: true } };
}
