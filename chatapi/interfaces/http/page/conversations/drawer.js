/** The drawer of stored conversations: search, open, rename, export, and deletion that can be undone. */

import { button, element, icon, loadStyle } from '../dom.js';
import { Fault, messageOf } from '../faults.js';
import { t } from '../texts.js';
import { UndoableDeletions } from '../undoable.js';
import { download, markdown } from './export.js';
import { Row } from './row.js';

const PAGE = 50;
/** Time after the last key press at which the search begins, in milliseconds. */
const TYPING_MS = 250;

export class Drawer {
  #api;
  #callbacks;
  #deletions = new UndoableDeletions();
  #next = null;
  /** Changes with every search, to ignore the late answer of another one. */
  #searched = 0;
  #typing = 0;
  #field = element('input', { type: 'search', id: 'conversation-search', placeholder: t('conversations.search'), 'aria-label': t('conversations.search'), autocomplete: 'off', maxlength: '200' });
  #list = element('ul', { class: 'conversations', id: 'conversations' });
  #empty = element('p', { class: 'none', role: 'status' });
  #fault = element('p', { class: 'conversations-fault', role: 'alert' });
  #toast = element('div', { class: 'conversations-undo', role: 'status' });
  #more = button(t('conversations.more'), () => this.#load(this.#next), { class: 'plain', hidden: '' });
  #dialog;

  /**
   * @param {import('../api.js').Api} api
   * @param {object} callbacks
   * @param {() => string} callbacks.current  the id of the shown conversation, or ''
   * @param {(id: string) => void} callbacks.onopen
   * @param {() => void} callbacks.onnew
   * @param {(id: string) => void} callbacks.ondeleted  called at once, before the deletion can no longer be undone
   * @param {(id: string) => void} callbacks.onrestored  called when a deletion is undone
   * @param {(fault: Fault) => void} callbacks.onfault  called for faults after the drawer was closed
   */
  constructor(api, callbacks) {
    this.#api = api;
    this.#callbacks = callbacks;
    const close = button('', () => this.#dialog.close(), { class: 'round', 'aria-label': t('frame.close') });
    close.append(icon('close'));
    const start = button('', () => this.#leave(() => this.#callbacks.onnew()), { class: 'plain wide', id: 'conversation-new' });
    start.append(icon('new'), t('talk.new'));
    const head = element('header', {}, element('h2', { id: 'drawer-title' }, t('conversations.title')), close);
    const scroller = element('div', { class: 'conversations-scroller', tabindex: '-1' }, this.#list, this.#empty, this.#more);
    this.#dialog = element('dialog', { class: 'drawer', id: 'drawer', 'aria-labelledby': 'drawer-title' }, head, start, this.#field, this.#fault, scroller, this.#toast);
    this.#dialog.addEventListener('click', (event) => event.target === this.#dialog && this.#dialog.close());
    this.#field.addEventListener('input', () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#load(), TYPING_MS);
    });
    document.body.append(this.#dialog);
  }

  async open() {
    await loadStyle('conversations/conversations.css');
    this.#field.value = '';
    this.#dialog.showModal();
    await this.#load();
  }

  async #load(before = null) {
    const searched = ++this.#searched;
    const query = new URLSearchParams({ limit: String(PAGE), search: this.#field.value.trim(), ...(before ? { before } : {}) });
    try {
      const { conversations, next } = await this.#api.get(`conversations?${query}`);
      if (searched !== this.#searched) return;
      this.#fault.textContent = '';
      this.#next = next;
      this.#more.hidden = next === null;
      const shown = conversations.filter(({ id }) => !this.#deletions.isLeaving(id));
      const rows = shown.map((each) => this.#row(each).element);
      if (before) this.#list.append(...rows);
      else this.#list.replaceChildren(...rows);
      this.#showEmpty();
    } catch (error) {
      if (searched === this.#searched) this.#failed(Fault.from(error));
    }
  }

  #row(conversation) {
    return new Row(conversation, conversation.id === this.#callbacks.current(), {
      onopen: () => this.#leave(() => this.#callbacks.onopen(conversation.id)),
      onrename: (title) => this.#rename(conversation, title),
      onexport: (form) => this.#export(conversation, form),
      ondelete: () => this.#delete(conversation),
    });
  }

  #showEmpty() {
    const searching = this.#field.value.trim() !== '';
    this.#empty.textContent = this.#list.childElementCount ? '' : t(searching ? 'conversations.none_found' : 'conversations.none');
  }

  #leave(then) {
    this.#dialog.close();
    then();
  }

  async #rename(conversation, title) {
    const path = `conversations/${encodeURIComponent(conversation.id)}`;
    await this.#attempt(() => this.#api.request(path, {
      method: 'PATCH', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ title }),
    }));
    await this.#load();
    this.#list.querySelector(`[data-id="${CSS.escape(conversation.id)}"] .conversation-open`)?.focus();
  }

  async #export(conversation, form) {
    await this.#attempt(async () => {
      const found = await this.#api.get(`conversations/${encodeURIComponent(conversation.id)}`);
      const named = { ...found, title: conversation.title, used: conversation.used };
      if (form === 'json') download(conversation.title, 'json', 'application/json', JSON.stringify(named, null, 2));
      else download(conversation.title, 'md', 'text/markdown', markdown(named));
    });
  }

  #delete(conversation) {
    const path = `conversations/${encodeURIComponent(conversation.id)}`;
    const remove = async () => {
      // Sent also while the page is left.
      await this.#api.request(path, { method: 'DELETE', keepalive: true }).catch((error) => {
        if (Fault.from(error).code !== 'unknown_conversation') throw error;
      });
    };
    const current = conversation.id === this.#callbacks.current();
    this.#deletions.add(conversation, remove, (fault) => this.#failed(fault));
    if (current) this.#callbacks.ondeleted(conversation.id);
    this.#list.querySelector(`[data-id="${CSS.escape(conversation.id)}"]`)?.remove();
    this.#showEmpty();
    const leaving = this.#deletions.last;
    const back = button(t('transcribe.undo'), () => {
      leaving.undo();
      if (current) this.#callbacks.onrestored(conversation.id);
      this.#load();
    }, { class: 'plain' });
    this.#toast.replaceChildren(element('span', {}, t('transcribe.deleted', conversation.title || t('conversations.untitled'))), back);
    back.focus();
    leaving.over.then(() => { if (this.#toast.contains(back)) this.#toast.replaceChildren(); });
  }

  async #attempt(work) {
    try {
      await work();
      this.#fault.textContent = '';
    } catch (error) {
      this.#failed(Fault.from(error));
    }
  }

  #failed(fault) {
    const { title, advice } = messageOf(fault);
    if (this.#dialog.open) this.#fault.textContent = `${title}. ${advice}`;
    else this.#callbacks.onfault(fault);
  }
}
