/** A button that starts and stops playback, and shows its state. */

import { button, icon, showIcon } from './dom.js';

export class PlayButton {
  #player;
  #chunks;
  #words;
  #playback = null;

  /**
   * @param {import('./player.js').Player} player
   * @param {() => import('./player.js').Chunk[]} chunks
   * @param {string} words   name of the audio, for example 'the answer'
   * @param {(chunk: import('./player.js').Chunk|null) => void} [onchunk]
   */
  constructor(player, chunks, words, onchunk = () => {}) {
    this.#player = player;
    this.#chunks = chunks;
    this.#words = words;
    this.element = button('', () => this.#press(onchunk), { class: 'play' });
    this.element.append(icon('play'));
    this.#show(false);
  }

  async #press(onchunk) {
    if (this.#playback?.playing) return this.#playback.stop();
    return this.follow(this.#player.play(this.#chunks(), onchunk));
  }

  /** Shows a running playback; a press stops it. */
  async follow(playback) {
    this.#playback = playback;
    this.#show(true);
    await playback.ended;
    this.#show(false);
  }

  #show(playing) {
    showIcon(this.element, playing ? 'stop' : 'play');
    this.element.setAttribute('aria-label', `${playing ? 'Stop' : 'Play'} ${this.#words}`);
    this.element.title = this.element.getAttribute('aria-label');
  }
}
