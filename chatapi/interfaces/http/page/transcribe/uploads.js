/** Resumable uploads of recordings (tus 1.0.0). They go on while other views are shown, and after a reload. */

import { Fault } from '../faults.js';
import { preferences } from '../preferences.js';

/** Bytes of one request: a lost connection costs at most what of it has not arrived. */
const CHUNK = 16 << 20;
/** First and longest delay before a failed request is sent again, in seconds. */
const FIRST_DELAY = 1;
const LONGEST_DELAY = 30;
/** Uploads that send at the same time. */
const MOST_SENDING = 2;
/** Largest number of uploads that are remembered for a reload. */
const MOST_REMEMBERED = 50;

/**
 * @typedef {'waiting'|'sending'|'paused'|'lost'|'failed'|'done'|'fileless'} UploadState
 * `lost`: the connection is, and it tries again; `fileless`: known from before a reload, its file has to be chosen again.
 */

export class Upload {
  /** @type {UploadState} */
  state = 'waiting';
  sent = 0;
  /** @type {Fault|null} */
  fault = null;
  /** Id of the upload on the server, and of its job; '': not created yet. */
  id = '';

  /** @param {{name: string, size: number, modified: number, options: Object<string, string>}} about */
  constructor(about, file = null) {
    this.about = about;
    this.file = file;
  }

  matches(file) {
    const { name, size, modified } = this.about;
    return file.name === name && file.size === size && file.lastModified === modified;
  }
}

export class Uploads {
  #api;
  #request = new Map();
  #timers = new Map();
  #delay = new Map();
  onchange = () => {};
  /** @type {(upload: Upload) => void} called when an upload has become a job */
  ondone = () => {};
  /** @type {() => void} called when the box needs an API key */
  onlocked = () => {};
  /** @type {Upload[]} */
  all = [];

  /** @param {import('../api.js').Api} api */
  constructor(api) {
    this.#api = api;
    this.all = remembered();
    window.addEventListener('online', () => this.#wake());
  }

  /** @param {File} file  @param {Object<string, string>} options */
  add(file, options) {
    const known = this.all.find((each) => each.state === 'fileless' && each.matches(file));
    if (known) {
      known.file = file;
      known.state = 'waiting';
    } else {
      const about = { name: file.name, size: file.size, modified: file.lastModified, options };
      this.all.push(new Upload(about, file));
    }
    this.#next();
  }

  pause(upload) {
    this.#stop(upload);
    upload.state = 'paused';
    this.#next();
  }

  resume(upload) {
    upload.state = 'waiting';
    upload.fault = null;
    this.#next();
  }

  async remove(upload) {
    this.#stop(upload);
    this.all = this.all.filter((each) => each !== upload);
    this.#next();
    // What cannot be deleted now expires on the box.
    if (upload.id) await this.#api.request(`uploads/${upload.id}`, { method: 'DELETE' }).catch(() => {});
  }

  /** Sends again what waits for a key. */
  unlocked() {
    this.#wake();
  }

  #stop(upload) {
    this.#request.get(upload)?.abort();
    this.#request.delete(upload);
    clearTimeout(this.#timers.get(upload));
  }

  #wake() {
    for (const each of this.all) {
      if (each.state !== 'lost') continue;
      clearTimeout(this.#timers.get(each));
      each.state = 'waiting';
    }
    this.#next();
  }

  #next() {
    const sending = this.all.filter(({ state }) => state === 'sending').length;
    const waiting = this.all.filter(({ state }) => state === 'waiting');
    for (const each of waiting.slice(0, Math.max(0, MOST_SENDING - sending))) this.#send(each);
    this.#remember();
    this.onchange();
  }

  async #send(upload) {
    upload.state = 'sending';
    try {
      await this.#transfer(upload);
      if (upload.state !== 'sending') return;
      upload.state = 'done';
      this.all = this.all.filter((each) => each !== upload);
      this.ondone(upload);
    } catch (error) {
      if (upload.state === 'sending') this.#fail(upload, Fault.from(error));
    }
    this.#next();
  }

  async #transfer(upload) {
    if (upload.id) upload.sent = await this.#offset(upload);
    if (!upload.id) await this.#create(upload);
    while (upload.state === 'sending' && upload.sent < upload.about.size) {
      upload.sent = await this.#sendChunk(upload);
      this.#delay.delete(upload);
    }
  }

  async #create(upload) {
    const { name, size, options } = upload.about;
    const metadata = Object.entries({ ...options, filename: name }).map(([key, value]) => `${key} ${base64(value)}`);
    const response = await this.#api.request('uploads', {
      method: 'POST',
      headers: { 'Tus-Resumable': '1.0.0', 'Upload-Length': String(size), 'Upload-Metadata': metadata.join(',') },
    });
    upload.id = response.headers.get('Location').split('/').at(-1);
    upload.sent = 0;
    this.#remember();
  }

  /** Bytes that have arrived; an upload that the box does not have any more begins again. */
  async #offset(upload) {
    try {
      return (await this.#api.get(`uploads/${upload.id}`)).offset;
    } catch (error) {
      if (Fault.from(error).code !== 'unknown_upload') throw error;
      upload.id = '';
      return 0;
    }
  }

  /** Sends the next bytes; returns the new offset. `fetch` does not report the progress of a request, so this is an XHR. */
  #sendChunk(upload) {
    const from = upload.sent;
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request.set(upload, request);
      request.open('PATCH', this.#api.url(`uploads/${upload.id}`));
      const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Offset': String(from), 'Content-Type': 'application/offset+octet-stream' };
      for (const [name, value] of Object.entries({ ...this.#api.headers, ...headers })) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded }) => {
        upload.sent = from + loaded;
        this.onchange();
      };
      request.onload = () => {
        if (request.status < 300) resolve(Number(request.getResponseHeader('Upload-Offset')));
        else reject(faultOf(request));
      };
      request.onerror = request.onabort = () => reject(new Fault('unreachable'));
      request.send(upload.file.slice(from, from + CHUNK));
    });
  }

  #fail(upload, fault) {
    upload.fault = fault;
    const transient = ['unreachable', 'wrong_offset', 'upload_in_use'].includes(fault.code) || fault.status === 503 || fault.status === 408;
    if (fault.code === 'unauthorized') {
      upload.state = 'lost';
      this.onlocked();
    } else if (transient) {
      const seconds = Math.max(fault.retryAfter ?? 0, this.#delay.get(upload) ?? FIRST_DELAY);
      this.#delay.set(upload, Math.min(LONGEST_DELAY, 2 * seconds));
      upload.state = 'lost';
      this.#timers.set(upload, setTimeout(() => this.resume(upload), 1000 * seconds));
    } else {
      upload.state = 'failed';
    }
  }

  #remember() {
    const kept = this.all.filter(({ id }) => id).slice(-MOST_REMEMBERED);
    preferences.uploads = kept.length ? JSON.stringify(kept.map(({ id, about, sent }) => ({ id, about, sent }))) : '';
  }
}

function remembered() {
  try {
    return JSON.parse(preferences.uploads || '[]').map(({ id, about, sent }) => {
      const upload = new Upload(about);
      return Object.assign(upload, { id, sent, state: 'fileless' });
    });
  } catch {
    // Another version of the page wrote it.
    return [];
  }
}

function faultOf(request) {
  const after = Number.parseFloat(request.getResponseHeader('Retry-After') ?? '');
  const retryAfter = Number.isFinite(after) ? after : null;
  try {
    return Fault.fromProblem(JSON.parse(request.responseText), retryAfter);
  } catch {
    return new Fault(`http_${request.status}`, { status: request.status, detail: request.statusText, retryAfter });
  }
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
