/** A conversation: what was said before, what is being asked now, one turn at a time. */

import { preferences } from './preferences.js';
import { Fault } from './faults.js';
import { Turn } from './turn.js';
import { wav } from './wav.js';

/** Asking the same again can only fail the same way. */
const HOPELESS = ['prompt_too_long', 'empty_prompt', 'audio_too_long', 'body_too_large', 'no_speech', 'no_words'];
/** What the user mends in the text field. */
const MENDED = ['prompt_too_long'];
/** The box may be gone. */
const LOST = ['unreachable', 'broken_off', 'silent'];
/** What the user mends by choosing something else. */
const CHOSEN = ['unknown_voice', 'unknown_language'];

export class Conversation {
  #api;
  #player;
  #thread;
  #told;
  #turn = null;

  /**
   * @param {import('./api.js').Api} api
   * @param {import('./player.js').Player} player
   * @param {import('./thread.js').Thread} thread
   * @param {object} told
   * @param {(busy: boolean) => void} told.onbusy
   * @param {(words: string) => void} told.announce
   * @param {(again: boolean) => Promise<boolean>} told.askKey
   * @param {() => void} told.openSettings
   * @param {(fault: Fault) => void} told.onfault  what went wrong outside a turn
   * @param {() => void} told.onlost  the box may be gone
   * @param {(prompt: string) => void} told.putBack  into the text field
   */
  constructor(api, player, thread, told) {
    this.#api = api;
    this.#player = player;
    this.#thread = thread;
    this.#told = told;
  }

  get busy() {
    return this.#turn !== null;
  }

  /** Show again what was said before the page was reloaded. */
  async restore() {
    const id = preferences.conversation;
    // After a key was entered for a question, that question is here already.
    if (!id || this.busy) return this.#thread.invite();
    try {
      const { messages } = await this.#api.get(`conversations/${encodeURIComponent(id)}`);
      for (const { role, text } of messages) {
        if (role === 'user') this.#thread.question(text);
        else this.#thread.answer().restored(text);
      }
    } catch (error) {
      const fault = Fault.from(error);
      if (fault.code === 'unknown_conversation') this.forgotten();
      else throw fault;
    }
    return this.#thread.invite();
  }

  /** Begin another; the box forgets this one. */
  async renew() {
    this.stop();
    this.#thread.clear();
    const id = preferences.conversation;
    preferences.conversation = '';
    if (!id) return;
    try {
      await this.#api.delete(`conversations/${encodeURIComponent(id)}`);
    } catch (error) {
      const fault = Fault.from(error);
      if (fault.code !== 'unknown_conversation') this.#told.onfault(new Fault('not_forgotten', fault));
    }
  }

  /** @param {string} prompt */
  ask(prompt) {
    this.stop();
    return this.#run(this.#thread.question(prompt), () => ({ prompt, options: this.#options() }));
  }

  /** @param {import('./recorder.js').Recording} recording */
  askAloud(recording) {
    this.stop();
    const file = wav(recording);
    const language = () => (preferences.language ? { language: preferences.language } : {});
    return this.#run(this.#thread.recording(recording), () => ({
      recording: file,
      options: { ...this.#options(), ...language() },
    }));
  }

  /** Stop the answer, its sound included. */
  stop() {
    this.#turn?.stop();
    this.#player.stop();
  }

  /** The box no longer has it. */
  forgotten() {
    preferences.conversation = '';
    this.#thread.remark('The box no longer has the earlier conversation; this begins a new one.');
  }

  #options() {
    const { speak, voice, conversation } = preferences;
    return {
      reply: speak ? 'voice' : 'text',
      ...(speak && voice ? { voice } : {}),
      ...(conversation ? { conversation } : {}),
    };
  }

  async #run(asked, question) {
    const answer = this.#thread.answer(asked);
    const turn = new Turn(asked, answer, {
      api: this.#api,
      player: this.#player,
      question,
      askKey: this.#told.askKey,
      onconversation: (id) => { if (this.#turn === turn) preferences.conversation = id; },
      onforgotten: () => this.forgotten(),
      onfault: (fault) => {
        answer.failed(fault, this.#ways(fault, () => {
          answer.element.remove();
          this.stop();
          this.#run(asked, question);
        }));
        const { prompt } = question();
        if (prompt && MENDED.includes(fault.code)) this.#told.putBack(prompt);
        if (LOST.includes(fault.code)) this.#told.onlost();
      },
    });
    this.#turn = turn;
    this.#told.onbusy(true);
    await turn.run();
    if (this.#turn !== turn) return;
    this.#turn = null;
    this.#told.onbusy(false);
    // Who listens to the answer needs no second voice reading it.
    this.#told.announce(preferences.speak ? 'The answer is complete' : answer.text);
  }

  #ways(fault, again) {
    if (HOPELESS.includes(fault.code)) return [];
    const ways = [{ words: 'Try again', pressed: again }];
    return CHOSEN.includes(fault.code) ? [{ words: 'Settings', pressed: this.#told.openSettings }, ...ways] : ways;
  }
}
