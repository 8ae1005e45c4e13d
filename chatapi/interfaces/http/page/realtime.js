/** Client of the box's Realtime API over a WebSocket. */

import { Fault } from './faults.js';

/** Sample rate in both directions, in hertz. */
export const RATE = 24_000;
/** Unsent bytes after which the connection counts as lost, 4 s of audio: a lost network reports no error. */
const MAX_UNSENT = 256 * 1024;
/** Timeout of the handshake, in milliseconds; the box itself waits 10 s for its models. */
const HANDSHAKE = 20_000;
/** Close codes of the box itself (RFC 6455, 7.4); its last error has the reason. */
const BOX_CLOSE_CODES = [1000, 1008, 1011, 1013];

export class Realtime {
  #socket;
  #callbacks;
  #error = null;
  /** Whether the box has accepted the session's settings. */
  ready = false;
  #timer;
  /** Capture time of the first sample, in milliseconds of the page's clock. */
  #zero = 0;
  #sent = 0;

  /**
   * @param {{key: string, conversation: string, voice: string, language: string}} preferred  '' for the box's default
   * @param {object} callbacks
   * @param {() => void} callbacks.onready
   * @param {(event: {type: string}) => void} callbacks.onevent
   * @param {(fault: Fault) => void} callbacks.onclosed  not_connected when it never opened, broken_off when it was lost
   */
  constructor(preferred, callbacks) {
    const { key, conversation } = preferred;
    const settings = session(preferred);
    this.#callbacks = callbacks;
    const protocols = key ? ['realtime', `openai-insecure-api-key.${token(key)}`] : ['realtime'];
    this.#socket = new WebSocket(address(conversation), protocols);
    this.#socket.onmessage = ({ data }) => this.#handle(JSON.parse(data), settings);
    this.#socket.onclose = ({ code }) => this.#onClose(code);
    this.#timer = setTimeout(() => this.#abort(), HANDSHAKE);
  }

  /** @param {string} type */
  send(type, fields = {}) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  /** Sends captured samples. */
  sendAudio(samples) {
    if (!this.ready) return;
    if (this.#socket.bufferedAmount > MAX_UNSENT) return this.#abort();
    this.#sent += samples.length;
    this.#zero = performance.now() - (1000 * this.#sent) / RATE;
    this.send('input_audio_buffer.append', { audio: base64(samples) });
  }

  /** Capture time of a position in the audio, in milliseconds of the page's clock. */
  captured(milliseconds) {
    return this.#zero + milliseconds;
  }

  /** Closes the connection without further callbacks. */
  close() {
    this.#callbacks = { onready() {}, onevent() {}, onclosed() {} };
    this.#abort();
  }

  #handle(event, settings) {
    if (event.type === 'session.created') {
      this.send('session.update', { session: settings });
    } else if (event.type === 'session.updated' && !this.ready) {
      clearTimeout(this.#timer);
      this.ready = true;
      this.#callbacks.onready();
    } else if (event.type === 'error') {
      this.#error = faultOf(event.error);
      if (this.ready) this.#callbacks.onevent(event);
      // The box rejected the session's settings, so the conversation cannot start.
      else this.#end(this.#error);
    } else {
      this.#callbacks.onevent(event);
    }
  }

  /** Closes without waiting for the box, which may be unreachable. */
  #abort = () => this.#end(new Fault(this.ready ? 'broken_off' : 'not_connected'));

  #onClose(code) {
    const reason = BOX_CLOSE_CODES.includes(code) ? this.#error : null;
    this.#end(reason ?? new Fault(this.ready ? 'broken_off' : 'not_connected'));
  }

  #end(fault) {
    clearTimeout(this.#timer);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    const { onclosed } = this.#callbacks;
    this.#callbacks = { onready() {}, onevent() {}, onclosed() {} };
    onclosed(fault);
  }
}

/** Finds out why a connection could not be opened, which browsers do not report. */
export async function connectionFault(api) {
  try {
    await api.get('ready');
    return new Fault('no_websocket');
  } catch (error) {
    return Fault.from(error);
  }
}

/** An error event's error, as a fault. */
export function faultOf({ type, code, message }) {
  return new Fault(code ?? 'error', { detail: message, status: type === 'invalid_request_error' ? 422 : 500 });
}

function address(conversation) {
  const url = new URL('v1/realtime?model=default', location.origin + location.pathname);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  if (conversation) url.searchParams.set('conversation', conversation);
  return url;
}

/** The key as a token (RFC 9110), which a subprotocol must be. */
function token(key) {
  return encodeURIComponent(key).replace(/[()]/g, (bracket) => `%${bracket.charCodeAt(0).toString(16)}`);
}

/** Encodes samples as base64 of 16-bit little-endian PCM. */
function base64(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, index) => view.setInt16(2 * index, 32767 * Math.min(1, Math.max(-1, sample)), true));
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

/** The session of `session.update`. */
function session({ voice, language }) {
  const input = language ? { transcription: { language } } : {};
  return { type: 'realtime', audio: { input, output: { voice: voice || 'default' } }, chatapi: { pausing: true } };
}
