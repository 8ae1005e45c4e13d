/** A conversation: its history and its current turn, one turn at a time. */

import { preferences } from './preferences.js';
import { samplesOf } from './player.js';
import { Fault } from './faults.js';
import { t } from './texts.js';
import { Turn } from './turn.js';
import { wav } from './wav.js';

/** Faults that a retry cannot fix. */
const NOT_RETRYABLE = ['prompt_too_long', 'empty_prompt', 'audio_too_long', 'body_too_large', 'no_speech', 'no_words'];
/** Faults that the user fixes in the text field. */
const FIX_IN_FIELD = ['prompt_too_long'];
/** Faults after which the box may be unreachable. */
const UNREACHABLE = ['unreachable', 'broken_off', 'silent'];
/** Faults that the user fixes in the settings. */
const FIX_IN_SETTINGS = ['unknown_voice', 'unknown_language'];

/** Sample rate of PCM in OpenAI's speech route, in hertz. */
const PCM_RATE = 24_000;

export class Conversation {
  #api;
  #player;
  #thread;
  #callbacks;
  #turn = null;

  /**
   * @param {import('./api.js').Api} api
   * @param {import('./player.js').Player} player
   * @param {import('./thread.js').Thread} thread
   * @param {object} callbacks
   * @param {(busy: boolean) => void} callbacks.onbusy
   * @param {(words: string) => void} callbacks.announce
   * @param {(again: boolean) => Promise<boolean>} callbacks.askKey
   * @param {() => void} callbacks.openSettings
   * @param {() => void} callbacks.onlost  called when the box may be unreachable
   * @param {(prompt: string) => void} callbacks.putBack  puts text into the text field
   */
  constructor(api, player, thread, callbacks) {
    this.#api = api;
    this.#player = player;
    this.#thread = thread;
    this.#callbacks = callbacks;
    thread.oncontinue = () => this.ask(t('talk.continue_prompt'));
  }

  get busy() {
    return this.#turn !== null;
  }

  /** Restores the messages of a stored conversation, for example after a reload of the page. */
  async restore() {
    const id = preferences.conversation;
    // When a key was entered for a question, that question is shown already.
    if (!id || this.busy) return this.#thread.invite();
    try {
      const { messages } = await this.#api.get(`conversations/${encodeURIComponent(id)}`);
      for (const { role, text } of messages) {
        if (role === 'user') this.#thread.question(text);
        else this.#thread.answer().restored(text, () => this.#synthesize(text));
      }
    } catch (error) {
      const fault = Fault.from(error);
      if (fault.code === 'unknown_conversation') this.forgotten();
      else throw fault;
    }
    return this.#thread.invite();
  }

  /** Leaves this conversation, which the box keeps: the next question starts a new one. */
  renew() {
    this.stop();
    this.#thread.clear();
    preferences.conversation = '';
  }

  /** Shows a stored conversation, which the next question continues. */
  open(id) {
    this.renew();
    preferences.conversation = id;
    return this.restore();
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

  /** Stops the answer and its playback. */
  stop() {
    this.#turn?.stop();
    this.#player.stop();
  }

  /** Handles that the box no longer has the conversation. */
  forgotten() {
    preferences.conversation = '';
    this.#thread.remark(t('talk.forgotten'));
  }

  /** The speech of a stored answer. */
  async #synthesize(input) {
    const body = JSON.stringify({ model: 'default', input, voice: preferences.voice || 'default', response_format: 'pcm' });
    const headers = { 'Content-Type': 'application/json' };
    const response = await this.#api.request('v1/audio/speech', { method: 'POST', headers, body });
    return [{ samples: samplesOf(await response.arrayBuffer()), rate: PCM_RATE, text: '' }];
  }

  #options() {
    const { speak, voice, conversation } = preferences;
    return {
      reply: speak ? 'voice' : 'text',
      ...(speak && voice ? { voice } : {}),
      ...(conversation ? { conversation } : {}),
    };
  }

  async #run(view, question) {
    const answer = this.#thread.answer(view);
    const turn = new Turn(view, answer, {
      api: this.#api,
      player: this.#player,
      question,
      askKey: this.#callbacks.askKey,
      onconversation: (id) => { if (this.#turn === turn) preferences.conversation = id; },
      onforgotten: () => this.forgotten(),
      onfault: (fault) => {
        answer.failed(fault, this.#ways(fault, () => {
          answer.element.remove();
          this.stop();
          this.#run(view, question);
        }));
        const { prompt } = question();
        if (prompt && FIX_IN_FIELD.includes(fault.code)) this.#callbacks.putBack(prompt);
        if (UNREACHABLE.includes(fault.code)) this.#callbacks.onlost();
      },
    });
    this.#turn = turn;
    this.#callbacks.onbusy(true);
    await turn.run();
    if (this.#turn !== turn) return;
    this.#turn = null;
    this.#callbacks.onbusy(false);
    // A spoken answer must not be read by a screen reader as well.
    this.#callbacks.announce(preferences.speak ? t('talk.complete') : answer.text);
  }

  #ways(fault, again) {
    if (NOT_RETRYABLE.includes(fault.code)) return [];
    const ways = [{ words: t('frame.try_again'), pressed: again }];
    return FIX_IN_SETTINGS.includes(fault.code) ? [{ words: t('frame.settings'), pressed: this.#callbacks.openSettings }, ...ways] : ways;
  }
}
