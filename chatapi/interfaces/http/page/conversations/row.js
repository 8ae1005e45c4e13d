/** A conversation in the drawer: its title, when it was used, and a menu. */

import { button, element, icon } from '../dom.js';
import { language, t } from '../texts.js';

/** Seconds in a unit of time -> its name; the largest unit that fits is shown. */
const UNITS = [[86400, 'day'], [3600, 'hour'], [60, 'minute']];
/** Age in days from which the date is shown. */
const DATED = 7;

/** How long ago it was used, or its date. @param {number} used  in seconds since 1970 */
export function when(used, now = Date.now() / 1000) {
  const seconds = Math.max(0, now - used);
  if (seconds >= DATED * 86400) return new Date(1000 * used).toLocaleDateString(language, { dateStyle: 'medium' });
  const format = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });
  const [length, unit] = UNITS.find(([each]) => seconds >= each) ?? [1, 'second'];
  return format.format(unit === 'second' ? 0 : -Math.floor(seconds / length), unit);
}

export class Row {
  #conversation;
  #callbacks;

  /**
   * @param {{id: string, title: string, used: number, exchanges: number}} conversation
   * @param {boolean} current  whether it is the shown one
   * @param {{onopen: () => void, onrename: (title: string) => void, onexport: (form: 'md'|'json') => void, ondelete: () => void}} callbacks
   */
  constructor(conversation, current, callbacks) {
    this.#conversation = conversation;
    this.#callbacks = callbacks;
    this.name = conversation.title || t('conversations.untitled');
    const title = element('span', { class: 'conversation-title' }, this.name);
    const about = element('small', {}, `${when(conversation.used)} · ${t('conversations.exchanges', conversation.exchanges)}`);
    const open = button('', callbacks.onopen, { class: 'conversation-open', ...(current ? { 'aria-current': 'true' } : {}) });
    open.append(title, about);
    this.element = element('li', { 'data-id': conversation.id }, open, this.#menu());
  }

  #menu() {
    const summary = element('summary', { class: 'round', 'aria-label': t('conversations.more_of', this.name), title: t('conversations.more_of', this.name) }, icon('more'));
    const menu = element('details', { class: 'conversation-menu' }, summary);
    const choice = (key, pressed) => button(t(key), () => {
      menu.open = false;
      pressed();
    }, { class: 'plain' });
    menu.append(element('div', { class: 'conversation-choices' },
      choice('conversations.rename', () => this.#rename()),
      choice('conversations.export_markdown', () => this.#callbacks.onexport('md')),
      choice('conversations.export_json', () => this.#callbacks.onexport('json')),
      choice('conversations.delete', this.#callbacks.ondelete)));
    menu.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || !menu.open) return;
      // Escape closes the menu, not the drawer.
      event.preventDefault();
      menu.open = false;
      summary.focus();
    });
    return menu;
  }

  /** Replaces the title by a text field, until it is left or Enter is pressed. */
  #rename() {
    const field = element('input', { type: 'text', class: 'conversation-name', maxlength: '200', 'aria-label': t('conversations.new_title') });
    field.value = this.#conversation.title;
    const before = [...this.element.children];
    let over = false;
    const finish = (kept) => {
      if (over) return;
      over = true;
      this.element.replaceChildren(...before);
      this.element.querySelector('.conversation-open').focus();
      if (kept && field.value.trim() !== this.#conversation.title) this.#callbacks.onrename(field.value.trim());
    };
    field.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === 'Escape') event.preventDefault();
      if (event.key === 'Enter') finish(true);
      if (event.key === 'Escape') finish(false);
    });
    field.addEventListener('blur', () => finish(true));
    this.element.replaceChildren(field);
    field.select();
    field.focus();
  }
}
