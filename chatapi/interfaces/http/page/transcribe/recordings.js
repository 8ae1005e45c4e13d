/** The list of recordings: uploads and jobs, and the place to add more. */

import { button, element, icon, showIcon } from '../dom.js';
import { Fault } from '../faults.js';
import { t } from '../texts.js';
import { bytes, failureOf, hasEnded, percent, stateOf } from './job.js';
import { OptionsForm } from './options-form.js';
import { deletions, remove } from './deletion.js';
import { Uploads } from './uploads.js';

/** Interval between two looks at the jobs, in seconds, while one is unfinished, and while none is. */
const BUSY = 1.5;
const IDLE = 15;
const PAGE = 50;
/** Characters of the latest text of a running job. */
const LATEST = 140;

/** The uploads outlive the view. @type {Uploads|null} */
let uploads = null;

export class Recordings {
  #frame;
  #api;
  #options = new OptionsForm();
  #rows = new Map();
  #jobs = [];
  #next = null;
  #timer = 0;
  #loaded = false;
  #picker = element('input', { type: 'file', id: 'transcribe-files', class: 'unseen', multiple: '', accept: 'audio/*,video/*,.amr,.wma,.opus,.mkv', tabindex: '-1', 'aria-label': t('transcribe.choose') });
  #uploadList = element('ul', { class: 'recordings', id: 'uploads' });
  #list = element('ul', { class: 'recordings', id: 'jobs' });
  #empty = element('p', { class: 'none', hidden: '' }, t('transcribe.empty'));
  #more = button(t('transcribe.more'), () => this.#loadMore(), { class: 'plain', hidden: '' });
  #toast = element('div', { class: 'toast', role: 'status' });

  /** @param {HTMLElement} root  @param {import('../frame.js').Mount} frame */
  constructor(root, frame) {
    this.#frame = frame;
    this.#api = frame.api;
    uploads ??= new Uploads(frame.api);
    uploads.onchange = () => this.#showUploads();
    uploads.ondone = ({ about }) => {
      frame.announce(t('transcribe.uploaded', about.name));
      this.#look();
    };
    uploads.onlocked = () => frame.unlock(false);
    const inside = element('div', { class: 'column' }, this.#adding(), this.#options.element, this.#uploadList, this.#list, this.#empty, this.#more);
    const scroller = element('div', { class: 'scroller', tabindex: '-1' }, inside);
    root.replaceChildren(scroller, this.#toast);
    this.#acceptDrops(root);
    frame.onmodels(({ languages }) => this.#options.setLanguages(languages));
    frame.onload(async () => {
      await this.#look();
      uploads.unlocked();
    });
    document.addEventListener('visibilitychange', () => document.hidden || this.#look(), { signal: frame.signal });
    this.#showUploads();
    if (deletions.last) this.#showUndo();
  }

  close() {
    clearTimeout(this.#timer);
    uploads.onchange = () => {};
    uploads.ondone = () => {};
    uploads.onlocked = () => {};
  }

  #adding() {
    const choose = button('', () => this.#picker.click(), { class: 'drop', id: 'choose' });
    choose.append(icon('upload'), element('strong', {}, t('transcribe.drop')), element('span', {}, t('transcribe.drop_more')));
    this.#picker.addEventListener('change', () => {
      this.#addFiles(this.#picker.files);
      this.#picker.value = '';
    });
    const url = element('input', { type: 'url', id: 'transcribe-url', placeholder: t('transcribe.url_example'), 'aria-label': t('transcribe.url'), autocomplete: 'off', spellcheck: 'false', required: '' });
    const form = element('form', { class: 'address' }, url, element('button', { class: 'plain' }, t('transcribe.fetch')));
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      if (await this.#addUrl(url.value.trim())) url.value = '';
    });
    return element('section', { class: 'adding', 'aria-label': t('transcribe.add') }, this.#picker, choose, form);
  }

  #acceptDrops(root) {
    const { signal } = this.#frame;
    const over = (on) => root.classList.toggle('dropping', on);
    root.addEventListener('dragover', (event) => {
      event.preventDefault();
      over(true);
    }, { signal });
    root.addEventListener('dragleave', (event) => event.relatedTarget && root.contains(event.relatedTarget) || over(false), { signal });
    root.addEventListener('drop', (event) => {
      event.preventDefault();
      over(false);
      this.#addFiles(event.dataTransfer.files);
    }, { signal });
    document.addEventListener('paste', (event) => {
      if (event.clipboardData.files.length) this.#addFiles(event.clipboardData.files);
    }, { signal });
  }

  #addFiles(files) {
    this.#frame.clearNotice();
    for (const file of files) {
      if (file.size) uploads.add(file, this.#options.options);
      else this.#frame.notice(new Fault('empty_file', { detail: file.name }));
    }
  }

  async #addUrl(url) {
    try {
      this.#frame.clearNotice();
      const { formats, ...options } = this.#options.options;
      await this.#api.send('POST', 'transcriptions', { url, ...options, formats: [formats] });
      await this.#look();
      return true;
    } catch (error) {
      await this.#fail(error, () => this.#addUrl(url));
      return false;
    }
  }

  /** Shows an error; a missing key is asked for, and the action repeated. */
  async #fail(error, again) {
    const fault = Fault.from(error);
    if (fault.code === 'unauthorized' && (await this.#frame.unlock(false))) await again();
    else if (fault.code !== 'unauthorized') this.#frame.notice(fault);
  }

  // Uploads

  #showUploads() {
    const kept = new Map([...this.#uploadList.children].map((row) => [row.upload, row]));
    const rows = uploads.all.map((upload) => {
      const row = kept.get(upload) ?? this.#uploadRow(upload);
      row.show();
      return row;
    });
    if (rows.length !== kept.size || rows.some((row) => !kept.has(row.upload))) this.#uploadList.replaceChildren(...rows);
    this.#showEmpty();
  }

  #uploadRow(upload) {
    const state = element('p', { class: 'meta' });
    const bar = element('progress', { max: '1', 'aria-label': t('transcribe.upload_of', upload.about.name) });
    const fault = element('p', { class: 'why' });
    const toggle = round('pause', () => this.#toggleUpload(upload));
    const remove = round('close', () => uploads.remove(upload));
    name(remove, t('transcribe.cancel_upload', upload.about.name));
    const row = element('li', { class: 'recording-row upload' }, icon('upload'), element('div', { class: 'what' }, element('strong', {}, upload.about.name), state, fault, bar), element('div', { class: 'row-actions' }, toggle, remove));
    row.upload = upload;
    row.show = () => {
      const { size } = upload.about;
      const share = size ? upload.sent / size : 0;
      row.dataset.state = upload.state;
      bar.value = share;
      state.textContent = t(`transcribe.uploads.${upload.state}`, percent(share), bytes(size));
      fault.textContent = upload.fault && upload.state === 'failed' ? failureOf({ failure: { code: upload.fault.code, message: upload.fault.detail } }) : '';
      const going = ['sending', 'waiting', 'lost'].includes(upload.state);
      showIcon(toggle, going ? 'pause' : upload.state === 'fileless' ? 'upload' : 'play');
      name(toggle, t(`transcribe.${going ? 'pause_upload' : upload.state === 'fileless' ? 'choose_again' : 'resume_upload'}`, upload.about.name));
    };
    return row;
  }

  #toggleUpload(upload) {
    if (upload.state === 'fileless') this.#picker.click();
    else if (['sending', 'waiting', 'lost'].includes(upload.state)) uploads.pause(upload);
    else uploads.resume(upload);
  }

  // Jobs

  /** Looks at the jobs, now and then again. */
  async #look() {
    clearTimeout(this.#timer);
    if (this.#frame.signal.aborted) return;
    try {
      const { jobs, next } = await this.#api.get(`jobs?kind=transcription&limit=${PAGE}`);
      const known = new Set(jobs.map(({ id }) => id));
      const last = jobs.at(-1);
      this.#jobs = [...jobs, ...this.#jobs.filter((job) => !known.has(job.id) && last && job.created < last.created)];
      this.#next ??= next;
      if (this.#jobs.length <= PAGE) this.#next = next;
      this.#loaded = true;
      this.#showJobs();
      await this.#showLatest();
    } finally {
      clearTimeout(this.#timer);
      const busy = this.#jobs.some((job) => !hasEnded(job) && job.state !== 'paused');
      const again = () => document.hidden || this.#look().catch(() => {});
      if (!this.#frame.signal.aborted) this.#timer = setTimeout(again, 1000 * (busy ? BUSY : IDLE));
    }
  }

  async #loadMore() {
    const { jobs, next } = await this.#api.get(`jobs?kind=transcription&limit=${PAGE}&before=${this.#jobs.at(-1).id}`);
    this.#jobs.push(...jobs);
    this.#next = next;
    this.#showJobs();
  }

  #showJobs() {
    const shown = this.#jobs.filter(({ id }) => !deletions.isLeaving(id));
    const rows = shown.map((job) => {
      const row = this.#rows.get(job.id) ?? this.#jobRow(job.id);
      this.#rows.set(job.id, row);
      row.show(job);
      return row;
    });
    const present = [...this.#list.children];
    // Moving a row takes the focus from its buttons.
    if (rows.length !== present.length || rows.some((row, index) => row !== present[index])) this.#list.replaceChildren(...rows);
    this.#more.hidden = !this.#next;
    this.#showEmpty();
  }

  #showEmpty() {
    this.#empty.hidden = !this.#loaded || uploads.all.length > 0 || this.#list.childElementCount > 0;
  }

  #jobRow(id) {
    const link = element('a', { href: `#/transcribe/${id}`, class: 'open' });
    const state = element('p', { class: 'meta' });
    const why = element('p', { class: 'why' });
    const latest = element('p', { class: 'latest' });
    const bar = element('progress', { max: '1' });
    const toggle = round('pause', () => this.#act(id, row.job.state === 'paused' ? 'resume' : 'pause'));
    const retry = round('retry', () => this.#act(id, 'retry'));
    const remove = round('delete', () => this.#delete(row.job));
    const mark = icon('transcribe');
    const row = element('li', { class: 'recording-row' }, element('span', { class: 'mark' }, mark), element('div', { class: 'what' }, link, state, why, latest, bar), element('div', { class: 'row-actions' }, toggle, retry, remove));
    row.latest = latest;
    row.show = (job) => {
      row.job = job;
      row.dataset.job = job.id;
      row.dataset.state = job.state;
      link.textContent = job.name;
      bar.setAttribute('aria-label', t('transcribe.progress_of', job.name));
      bar.value = job.progress;
      bar.hidden = hasEnded(job);
      setText(state, [stateOf(job), new Date(1000 * job.created).toLocaleString(document.documentElement.lang, { dateStyle: 'medium', timeStyle: 'short' })].join(' · '));
      setText(why, failureOf(job));
      mark.firstChild.setAttribute('href', `#icon-${{ done: 'done', failed: 'warning', paused: 'pause' }[job.state] ?? 'transcribe'}`);
      toggle.hidden = hasEnded(job);
      retry.hidden = !['failed', 'cancelled'].includes(job.state);
      showIcon(toggle, job.state === 'paused' ? 'play' : 'pause');
      name(toggle, t(`transcribe.${job.state === 'paused' ? 'resume' : 'pause'}`, job.name));
      name(retry, t('transcribe.retry', job.name));
      name(remove, t('transcribe.delete', job.name));
      if (job.state !== 'running') latest.textContent = '';
    };
    return row;
  }

  /** Shows the end of the text of the job that runs. */
  async #showLatest() {
    const running = this.#jobs.find(({ state }) => state === 'running');
    if (!running) return;
    const { text } = await this.#api.get(`jobs/${running.id}`);
    const row = this.#rows.get(running.id);
    if (row && row.job.state === 'running') setText(row.latest, text && text.length > LATEST ? `… ${text.slice(-LATEST)}` : text ?? '');
  }

  async #act(id, action) {
    try {
      await this.#api.send('POST', `jobs/${id}/${action}`);
      await this.#look();
    } catch (error) {
      await this.#fail(error, () => this.#act(id, action));
    }
  }

  #delete(job) {
    const next = this.#rows.get(job.id).nextElementSibling ?? this.#rows.get(job.id).previousElementSibling;
    deletions.add(job, () => remove(this.#api, job), (fault) => this.#frame.notice(fault));
    this.#showJobs();
    this.#showUndo();
    (next?.querySelector('a') ?? document.getElementById('choose')).focus();
  }

  #showUndo() {
    const leaving = deletions.last;
    const back = button(t('transcribe.undo'), () => {
      leaving.undo();
      this.#toast.replaceChildren();
      this.#showJobs();
    }, { class: 'plain' });
    this.#toast.replaceChildren(element('span', {}, t('transcribe.deleted', leaving.item.name)), back);
    leaving.over.then(() => {
      if (this.#toast.contains(back)) this.#toast.replaceChildren();
      if (!this.#frame.signal.aborted) this.#look().catch(() => {});
    });
  }
}

function round(image, pressed) {
  const made = button('', pressed, { class: 'round' });
  made.append(icon(image));
  return made;
}

/** Names a control for screen readers, and in its tooltip. */
function name(control, words) {
  control.setAttribute('aria-label', words);
  control.title = words;
}

/** Sets a text, unless it is shown already: screen readers would read it again. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
