/** The conversation as it is shown: questions and answers, one under the other. */

import { Answer } from './answer.js';
import { byId, element } from './dom.js';
import { clock } from './durations.js';
import { PlayButton } from './playbutton.js';
import { waveform } from './waveform.js';

/** Closer than this to the end, in CSS pixels, the view follows what is added. */
const NEAR = 120;
/** CSS pixels that stay free above the words being spoken. */
const MARGIN = 24;

/** What the user asked. */
class QuestionView {
  #text;

  constructor(text) {
    this.#text = element('p', { class: 'text' }, text);
    this.element = element('li', { class: 'message question' }, element('span', { class: 'unseen' }, 'You: '), this.#text);
  }

  /** Show a recording; its words follow when they are known. */
  recorded(recording, player) {
    const pieces = [{ ...recording, text: '' }];
    const play = new PlayButton(player, () => pieces, 'your recording');
    const length = element('span', { class: 'length' }, clock(Math.max(1, recording.samples.length / recording.rate)));
    this.element.append(element('div', { class: 'voice' }, play.element, waveform(recording), length));
  }

  /** @param {boolean} [final]  whether the words stay as they are */
  say(text, final = true) {
    this.#text.textContent = text;
    this.element.classList.toggle('partial', !final);
  }
}

export class Thread {
  #view = byId('thread');
  #list = byId('messages');
  #welcome = byId('welcome');
  #player;
  /** Whether the view goes along with what is added and said; who scrolls up stays there. */
  #follows = true;
  #spoken = null;
  #put = 0;

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

  /** @param {{element: Element}} [question]  the one it answers, if that is not the last */
  answer(question) {
    const view = new Answer(this.#player, (words) => {
      this.#spoken = words;
      if (words) this.#follow();
    });
    this.#add(view, question?.element);
    return view;
  }

  /** A line between messages, for what is neither question nor answer. */
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

  /** Show the examples, if there is nothing else. */
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
    if (Math.abs(this.#view.scrollTop - this.#put) < 2) return;
    this.#follows = this.#view.scrollHeight - this.#view.scrollTop - this.#view.clientHeight < NEAR;
  }

  /** To the end, but never past the words that are being spoken. */
  #follow() {
    if (!this.#follows) return;
    const spoken = this.#spoken?.getBoundingClientRect();
    const above = spoken ? this.#view.scrollTop + spoken.top - this.#view.getBoundingClientRect().top - MARGIN : Infinity;
    this.#view.scrollTop = Math.min(this.#view.scrollHeight, Math.max(0, above));
    this.#put = this.#view.scrollTop;
  }
}
