/** A button that plays sound and shows whether it does. */

import { button, icon, showIcon } from './dom.js';

export class PlayButton {
  #player;
  #pieces;
  #words;
  #playback = null;

  /**
   * @param {import('./player.js').Player} player
   * @param {() => import('./player.js').Piece[]} pieces
   * @param {string} words   what it plays, for example 'the answer'
   * @param {(piece: import('./player.js').Piece|null) => void} [onpiece]
   */
  constructor(player, pieces, words, onpiece = () => {}) {
    this.#player = player;
    this.#pieces = pieces;
    this.#words = words;
    this.element = button('', () => this.#press(onpiece), { class: 'play' });
    this.element.append(icon('play'));
    this.#show(false);
  }

  async #press(onpiece) {
    if (this.#playback?.playing) return this.#playback.stop();
    return this.follow(this.#player.play(this.#pieces(), onpiece));
  }

  /** Show a playback that runs already, and stop it when pressed. */
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
