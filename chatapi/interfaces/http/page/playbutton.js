/** A button that starts and stops playback, and shows its state. */

import { button, icon, showIcon } from './dom.js';
import { t } from './texts.js';

export class PlayButton {
  #player;
  #chunks;
  #name;
  #playback = null;

  /**
   * @param {import('./player.js').Player} player
   * @param {() => import('./player.js').Chunk[]|Promise<import('./player.js').Chunk[]>} chunks
   * @param {'answer'|'recording'} name  what the audio is
   * @param {(chunk: import('./player.js').Chunk|null) => void} [onchunk]
   */
  constructor(player, chunks, name, onchunk = () => {}) {
    this.#player = player;
    this.#chunks = chunks;
    this.#name = name;
    this.element = button('', () => this.#press(onchunk), { class: 'play' });
    this.element.append(icon('play'));
    this.#show(false);
  }

  async #press(onchunk) {
    if (this.#playback?.playing) return this.#playback.stop();
    this.element.setAttribute('aria-busy', 'true');
    try {
      return this.follow(this.#player.play(await this.#chunks(), onchunk));
    } finally {
      this.element.removeAttribute('aria-busy');
    }
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
    this.element.setAttribute('aria-label', t(`talk.${playing ? 'stop' : 'play'}_${this.#name}`));
    this.element.title = this.element.getAttribute('aria-label');
  }
}
