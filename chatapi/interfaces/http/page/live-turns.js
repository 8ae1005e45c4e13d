/** The turns of a live conversation: shows and plays them, and stops playback on a barge-in. */

import { LiveAnswer } from './live-answer.js';
import { bytesOf, samplesOf } from './player.js';
import { faultOf, RATE } from './realtime.js';

/** Time from a transcript to the start of its response, in milliseconds; some utterances ("stop") get none. */
const RESPONSE_START = 400;
/** Progress reports of the loudspeaker per `chatapi.played` event. */
const REPORTS = 2;

export class LiveTurns {
  #thread;
  #loudspeaker;
  #callbacks;
  #connection = null;
  #question = null;
  #answer = null;
  #items = new Map();
  #ended = null;
  #timer = 0;
  #reports = 0;
  #handlers = {
    'input_audio_buffer.speech_started': () => this.#started(),
    'input_audio_buffer.speech_stopped': (event) => this.#stopped(event),
    'input_audio_buffer.committed': (event) => this.#items.set(event.item_id, this.#utterance().element),
    'input_audio_buffer.cleared': () => this.#discard(),
    'chatapi.transcript.partial': ({ text }) => this.#utterance().setText(text, false),
    'conversation.item.input_audio_transcription.completed': ({ transcript }) => this.#transcribed(transcript),
    'conversation.item.input_audio_transcription.failed': ({ error }) => this.#discard(faultOf(error)),
    'conversation.item.deleted': ({ item_id: id }) => this.#deleted(id),
    'response.created': ({ response }) => this.#responseStarted(response),
    'response.output_item.added': ({ item }) => this.#items.set(item.id, this.#answer.element),
    'response.output_audio_transcript.delta': ({ delta }) => this.#answer?.write(delta),
    'response.output_audio.delta': ({ delta }) => this.#addAudio(samplesOf(bytesOf(delta))),
    'chatapi.speech': (event) => this.#answer?.addSpan(event),
    'chatapi.output_audio.paused': () => this.#paused(true),
    'chatapi.output_audio.resumed': () => this.#paused(false),
    'response.done': ({ response }) => this.#done(response),
    'chatapi.timings': ({ timings }) => this.#setTimings(timings),
    error: ({ error }) => this.#callbacks.onfault(faultOf(error)),
  };

  /**
   * @param {import('./thread.js').Thread} thread
   * @param {import('./loudspeaker.js').Loudspeaker} loudspeaker
   * @param {object} callbacks
   * @param {(state: string) => void} callbacks.onstate  listening, hearing, thinking, speaking or paused
   * @param {(fault: import('./faults.js').Fault) => void} callbacks.onfault  called for faults that do not end the conversation
   * @param {(id: string) => void} callbacks.onconversation  called with the id of the conversation that has a new turn
   */
  constructor(thread, loudspeaker, callbacks) {
    this.#thread = thread;
    this.#loudspeaker = loudspeaker;
    this.#callbacks = callbacks;
  }

  /** Continues on a new connection. */
  follow(connection) {
    this.#connection = connection;
    this.#items.clear();
    this.#ended = null;
  }

  /** @param {{type: string}} event  a server event */
  handle(event) {
    this.#handlers[event.type]?.(event);
  }

  /** @param {import('./loudspeaker.js').Progress} progress */
  progress({ answer: number, played }) {
    const answer = this.#answer;
    if (answer?.number !== number || answer.interrupted || played === answer.played) return;
    if (!answer.played) {
      answer.playbackStarted(this.#ended === null ? null : (performance.now() - this.#ended) / 1000);
      this.#callbacks.onstate('speaking');
    }
    answer.setPlayed(played);
    this.#reports += 1;
    if (this.#reports % REPORTS === 0 || played === answer.samples) {
      this.#connection.send('chatapi.played', { audio_end_ms: Math.floor((1000 * played) / RATE) });
    }
    this.#settle();
  }

  /** Ends the conversation; clears the output first, so that the box stores the part that was played. */
  leave() {
    if (this.#answer && !this.#answer.interrupted) {
      this.#connection?.send('output_audio_buffer.clear');
      this.#callbacks.onconversation(this.#answer.conversation);
    }
    this.lose(false);
  }

  /** Ends the current turn after the connection was lost. */
  lose(lost = true) {
    clearTimeout(this.#timer);
    this.#discard();
    this.#loudspeaker.clear();
    this.#answer?.interrupt();
    this.#answer?.conclude(lost);
    this.#answer = null;
  }

  // Input

  #started() {
    clearTimeout(this.#timer);
    this.#interrupt();
    this.#callbacks.onstate('hearing');
  }

  #stopped({ audio_end_ms: end }) {
    this.#ended = this.#connection.captured(end);
    this.#callbacks.onstate('thinking');
  }

  /** The view of the current utterance. */
  #utterance() {
    this.#question ??= this.#thread.question('');
    return this.#question;
  }

  #transcribed(text) {
    this.#utterance().setText(text);
    this.#question = null;
    this.#timer = setTimeout(() => this.#callbacks.onstate('listening'), RESPONSE_START);
  }

  /** Removes an utterance without a transcript. */
  #discard(fault = null) {
    this.#question?.element.remove();
    this.#question = null;
    this.#thread.invite();
    if (fault) this.#callbacks.onfault(fault);
    if (!this.#answer) this.#callbacks.onstate('listening');
  }

  #deleted(id) {
    const view = this.#items.get(id);
    if (!view) return;
    if (this.#answer?.element === view) this.#answer = null;
    view.remove();
    this.#items.delete(id);
  }

  // Responses

  #responseStarted({ conversation_id: conversation }) {
    clearTimeout(this.#timer);
    this.#answer?.conclude();
    const number = this.#loudspeaker.begin();
    this.#answer = new LiveAnswer(this.#thread.answer(), { number, conversation, rate: RATE });
    this.#callbacks.onstate('thinking');
  }

  #addAudio(samples) {
    if (!this.#answer || this.#answer.interrupted) return;
    this.#answer.addAudio(samples);
    this.#loudspeaker.add(samples);
  }

  #paused(on) {
    if (on) this.#loudspeaker.pause();
    else this.#loudspeaker.resume();
    this.#answer?.paused(on);
    this.#callbacks.onstate(on ? 'paused' : this.#answer ? 'speaking' : 'listening');
  }

  #done(response) {
    if (response.status !== 'failed') this.#callbacks.onconversation(response.conversation_id);
    if (response.status === 'cancelled') this.#interrupt();
    this.#answer?.done(response);
  }

  #setTimings(timings) {
    this.#answer?.setTimings(timings);
    this.#settle();
  }

  #interrupt() {
    if (!this.#answer || this.#answer.interrupted) return;
    this.#loudspeaker.clear();
    this.#answer.interrupt();
    this.#settle();
  }

  #settle() {
    const answer = this.#answer;
    if (!answer?.over) return;
    this.#answer = null;
    answer.conclude();
    // After a barge-in the user speaks.
    if (!answer.interrupted) this.#callbacks.onstate('listening');
  }
}
