/** Teaches a word: samples by hold-to-record or from files, and what became of each. */

import { button, element, icon } from '../dom.js';
import { Fault, reasonOf } from '../faults.js';
import { t } from '../texts.js';
import { wav } from '../wav.js';
import { HoldButton } from './hold-button.js';

/** Samples of a word that are asked for. */
const WANTED = 10;

export class TeachForm {
  root;
  #frame;
  #requests;
  #onsample;
  #counts = {};
  #word = element('input', { id: 'commands-word', maxlength: '40', autocomplete: 'off', autocapitalize: 'none', list: 'commands-words' });
  #known = element('datalist', { id: 'commands-words' });
  #hold;
  #dots = element('div', { class: 'commands-dots', 'aria-hidden': 'true' });
  #said = element('p', { class: 'commands-said', role: 'status' });

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {import('./requests.js').CommandRequests} requests
   * @param {() => Promise<void>} onsample  called after a sample was stored
   */
  constructor(frame, requests, onsample) {
    this.#frame = frame;
    this.#requests = requests;
    this.#onsample = onsample;
    const texts = { words: t('commands.hold'), hint: t('commands.hold_hint') };
    this.#hold = new HoldButton(texts, (recording) => this.#submit([wav(recording)]), (fault) => this.#fault(fault));
    const files = element('input', { type: 'file', id: 'commands-files', accept: 'audio/*', multiple: '' });
    files.addEventListener('change', async () => {
      const chosen = [...files.files];
      files.value = '';
      await this.#submit(chosen);
    });
    this.#word.addEventListener('input', () => this.#show());
    this.root = element('section', { class: 'commands-card' }, element('h2', {}, t('commands.teach')),
      element('p', { class: 'commands-soft' }, t('commands.advice')),
      element('label', { class: 'commands-field', for: 'commands-word' }, element('span', {}, t('commands.word')), this.#word), this.#known,
      this.#hold.root, this.#dots, this.#said,
      element('label', { class: 'commands-field commands-files', for: 'commands-files' }, element('span', {}, t('commands.files')), files));
    this.#show();
  }

  /**
   * @param {Object<string, number>} counts  accepted samples of each word
   * @param {string[]} labels  the recognized words
   */
  show(counts, labels) {
    this.#counts = counts;
    const words = [...new Set([...Object.keys(counts), ...labels])];
    this.#known.replaceChildren(...words.map((value) => element('option', { value })));
    this.#show();
  }

  close() {
    this.#hold.close();
  }

  get #label() {
    return this.#word.value.trim().toLowerCase();
  }

  #show() {
    const count = this.#counts[this.#label] ?? 0;
    this.#hold.hint = this.#label ? t('commands.say', this.#label, count) : t('commands.hold_hint');
    this.#dots.hidden = !this.#label;
    const all = Math.max(WANTED, count);
    this.#dots.replaceChildren(...Array.from({ length: Math.min(all, 30) }, (_, at) => element('i', at < count ? { class: 'on' } : {})));
  }

  async #submit(clips) {
    if (!this.#label) {
      this.#tell(t('commands.no_word'), true);
      this.#word.focus();
      return;
    }
    const label = this.#label;
    for (const clip of clips) {
      try {
        this.#told(await this.#requests.submit(label, clip));
      } catch (error) {
        if (this.#frame.signal.aborted) return;
        const fault = Fault.from(error);
        if (fault.status !== 422 && fault.status !== 409 && fault.status !== 429) throw error;
        this.#tell(reasonOf({ code: fault.code, message: fault.detail }, true), true);
      }
    }
    await this.#onsample();
  }

  #told({ sample, duplicate }) {
    if (duplicate) this.#tell(t('commands.duplicate'), true);
    else if (sample.state === 'quarantined') this.#tell(t('commands.doubted', reasonFor(sample)), true);
    else this.#tell(t(sample.held_out ? 'commands.kept_to_judge' : 'commands.stored'), false);
  }

  #tell(words, bad) {
    this.#said.textContent = words;
    this.#said.classList.toggle('commands-bad', bad);
  }

  #fault(fault) {
    if (fault.code === 'too_short') this.#tell(t('commands.too_short'), true);
    else this.#frame.notice(fault);
  }
}

/** Why a sample is quarantined, in words. */
export function reasonFor({ reason }) {
  const [kind, word] = reason.split(' ', 2);
  if (kind === 'sounds_like') return t('commands.sounds_like', reason.slice(kind.length + 1) || word);
  return t(`commands.reason_${kind === 'key_doubtful' ? 'key' : 'review'}`);
}

/** A small round button with an icon. */
export function iconButton(name, words, pressed) {
  const made = button('', pressed, { class: 'round', 'aria-label': words, title: words });
  made.append(icon(name));
  return made;
}
