/** The words: how well each is recognized, and its samples to be heard, accepted and deleted. */

import { element, showIcon } from '../dom.js';
import { Fault } from '../faults.js';
import { number, t } from '../texts.js';
import { bar } from './figures.js';
import { iconButton, reasonFor } from './teach.js';

export class WordList {
  root;
  #frame;
  #requests;
  #onchanged;
  #list = element('ul', { class: 'commands-words' });
  #open = new Set();
  #player = new Audio();
  #playing = null;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {import('./requests.js').CommandRequests} requests
   * @param {() => Promise<void>} onchanged
   */
  constructor(frame, requests, onchanged) {
    this.#frame = frame;
    this.#requests = requests;
    this.#onchanged = onchanged;
    this.#player.addEventListener('ended', () => this.#stop());
    this.root = element('section', {}, element('h2', {}, t('commands.words')), this.#list);
  }

  /**
   * @param {string[]} labels  the recognized words
   * @param {object[]} samples  the newest first
   * @param {Object<string, number>} shares  share of right labels of each word
   */
  show(labels, samples, shares) {
    const words = [...new Set([...labels, ...samples.map(({ label }) => label)])];
    this.#list.replaceChildren(...words.map((word) => this.#word(word, {
      known: labels.includes(word), samples: samples.filter(({ label }) => label === word), share: shares[word],
    })));
  }

  close() {
    this.#stop();
  }

  #word(word, { known, samples, share }) {
    const accepted = samples.filter(({ state }) => state === 'accepted').length;
    const about = !known ? t('commands.not_trained') : share == null ? '' : t('commands.right', percent(share));
    const head = [element('strong', {}, word), element('span', { class: 'commands-soft' }, about)];
    if (share != null && known) head.push(bar(share));
    if (!samples.length) return element('li', {}, element('div', { class: 'commands-head' }, ...head));
    const details = element('details', this.#open.has(word) ? { open: '' } : {},
      element('summary', { class: 'commands-head' }, ...head, element('span', { class: 'commands-count' }, t('commands.samples', accepted))),
      element('ul', { class: 'commands-samples' }, ...samples.map((each) => this.#sample(each))));
    details.addEventListener('toggle', () => (details.open ? this.#open.add(word) : this.#open.delete(word)));
    return element('li', {}, details);
  }

  #sample(sample) {
    const when = new Date(sample.submitted * 1000).toLocaleString(document.documentElement.lang, { dateStyle: 'short', timeStyle: 'short' });
    const play = iconButton('play', t('commands.hear', sample.label, when), () => this.#hear(sample, play));
    const marks = [t('commands.length', number(sample.seconds, 1), Math.round(sample.level_db))];
    if (sample.held_out) marks.push(t('commands.judges'));
    const text = element('span', { class: 'commands-sample' }, when, element('small', {}, marks.join(' · ')));
    if (sample.state === 'quarantined') text.append(element('small', { class: 'commands-bad' }, reasonFor(sample)));
    const actions = [iconButton('delete', t('commands.delete', sample.label, when), () => this.#change(() => this.#requests.remove(sample)))];
    if (sample.state === 'quarantined') {
      actions.unshift(iconButton('done', t('commands.accept', sample.label, when), () => this.#change(() => this.#requests.accept(sample))));
    }
    return element('li', {}, play, text, ...actions);
  }

  async #hear(sample, play) {
    const same = this.#playing?.button === play;
    this.#stop();
    if (same) return;
    try {
      const url = URL.createObjectURL(await this.#requests.sound(sample));
      this.#playing = { button: play, url };
      showIcon(play, 'stop');
      this.#player.src = url;
      await this.#player.play();
    } catch (error) {
      this.#stop();
      // A press of another button ends the playback.
      if (!this.#frame.signal.aborted && error.name !== 'AbortError') this.#frame.notice(Fault.from(error));
    }
  }

  #stop() {
    if (!this.#playing) return;
    this.#player.pause();
    showIcon(this.#playing.button, 'play');
    URL.revokeObjectURL(this.#playing.url);
    this.#playing = null;
  }

  async #change(action) {
    try {
      await action();
      await this.#onchanged();
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    }
  }
}

function percent(share) {
  return `${number(Math.round(100 * share))}\u00a0%`;
}
