/** The message list of the conversation. */

import { Answer } from './answer.js';
import { byId, element } from './dom.js';
import { clock } from './durations.js';
import { PlayButton } from './playbutton.js';
import { t } from './texts.js';
import { waveform } from './waveform.js';

/** Distance to the end within which the view follows new content, in CSS pixels. */
const NEAR = 120;
/** Margin above the spoken text, in CSS pixels. */
const MARGIN = 24;

/** The view of a question. */
class QuestionView {
  #text;

  constructor(text) {
    this.#text = element('p', { class: 'text' }, text);
    this.element = element('li', { class: 'message question' }, element('span', { class: 'unseen' }, t('talk.you')), this.#text);
  }

  /** Shows a recording; its transcript follows. */
  recorded(recording, player) {
    const chunks = [{ ...recording, text: '' }];
    const play = new PlayButton(player, () => chunks, 'recording');
    const length = element('span', { class: 'length' }, clock(Math.max(1, recording.samples.length / recording.rate)));
    this.element.append(element('div', { class: 'voice' }, play.element, waveform(recording), length));
  }

  /** @param {boolean} [final]  whether the transcript is final */
  setText(text, final = true) {
    this.#text.textContent = text;
    this.element.classList.toggle('partial', !final);
  }
}

export class Thread {
  #view = byId('thread');
  #list = byId('messages');
  #welcome = byId('welcome');
  #player;
  /** Whether the view follows new content and spoken text; scrolling up stops it. */
  #follows = true;
  #spoken = null;
  #scrollTarget = 0;
  /** Called when the rest of an answer that was cut short is wanted. */
  oncontinue = () => {};

  /** @param {import('./player.js').Player} player */
  constructor(player) {
    this.#player = player;
    new MutationObserver(() => this.#follow()).observe(this.#list, { childList: true, subtree: true, characterData: true });
    this.#view.addEventListener('scroll', () => this.#scrolled(), { passive: true });
  }

  question(text) {
    const view = new QuestionView(text);
    this.#add(view);
    return view;
  }

  recording(recording) {
    const view = new QuestionView('');
    view.recorded(recording, this.#player);
    this.#add(view);
    return view;
  }

  /** @param {{element: Element}} [question]  its question, if that is not the last message */
  answer(question) {
    const view = new Answer(this.#player, (words) => {
      this.#spoken = words;
      if (words) this.#follow();
    }, () => this.oncontinue());
    this.#add(view, question?.element);
    return view;
  }

  /** Adds a remark between messages. */
  remark(words) {
    this.#add({ element: element('li', { class: 'remark' }, words) });
  }

  get empty() {
    return this.#list.childElementCount === 0;
  }

  clear() {
    this.#list.replaceChildren();
    this.invite();
  }

  /** Shows the examples, if the list is empty. */
  invite() {
    this.#welcome.hidden = !this.empty;
  }

  #add(view, after = this.#list.lastElementChild) {
    this.#welcome.hidden = true;
    this.#follows ||= after === this.#list.lastElementChild;
    if (after) after.after(view.element);
    else this.#list.append(view.element);
  }

  #scrolled() {
    if (Math.abs(this.#view.scrollTop - this.#scrollTarget) < 2) return;
    this.#follows = this.#view.scrollHeight - this.#view.scrollTop - this.#view.clientHeight < NEAR;
  }

  /** Scrolls to the end, but never past the spoken text. */
  #follow() {
    if (!this.#follows) return;
    const spoken = this.#spoken?.getBoundingClientRect();
    const above = spoken ? this.#view.scrollTop + spoken.top - this.#view.getBoundingClientRect().top - MARGIN : Infinity;
    this.#view.scrollTop = Math.min(this.#view.scrollHeight, Math.max(0, above));
    this.#scrollTarget = this.#view.scrollTop;
  }
}
