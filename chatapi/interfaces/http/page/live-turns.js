/** The turns of a live conversation as they happen: shown, sounded and, when spoken against, broken off. */

import { LiveAnswer } from './live-answer.js';
import { samplesOf } from './player.js';
import { faultOf, RATE } from './realtime.js';

/** Milliseconds after the words of a turn in which its answer is begun, if it is answered at all ("stop" is not). */
const ANSWERED = 400;
/** Reports of progress between two that the box is sent. */
const REPORTS = 2;

export class LiveTurns {
  #thread;
  #loudspeaker;
  #told;
  #door = null;
  #question = null;
  #answer = null;
  #items = new Map();
  #ended = null;
  #timer = 0;
  #reports = 0;
  #takers = {
    'input_audio_buffer.speech_started': () => this.#started(),
    'input_audio_buffer.speech_stopped': (event) => this.#stopped(event),
    'input_audio_buffer.committed': (event) => this.#items.set(event.item_id, this.#asked().element),
    'input_audio_buffer.cleared': () => this.#nothing(),
    'chatapi.transcript.partial': ({ text }) => this.#asked().say(text, false),
    'conversation.item.input_audio_transcription.completed': ({ transcript }) => this.#understood(transcript),
    'conversation.item.input_audio_transcription.failed': ({ error }) => this.#nothing(faultOf(error)),
    'conversation.item.deleted': ({ item_id: id }) => this.#deleted(id),
    'response.created': ({ response }) => this.#begun(response),
    'response.output_item.added': ({ item }) => this.#items.set(item.id, this.#answer.element),
    'response.output_audio_transcript.delta': ({ delta }) => this.#answer?.write(delta),
    'response.output_audio.delta': ({ delta }) => this.#sounds(samplesOf(delta)),
    'chatapi.speech': (event) => this.#answer?.spoke(event),
    'chatapi.output_audio.paused': () => this.#paused(true),
    'chatapi.output_audio.resumed': () => this.#paused(false),
    'response.done': ({ response }) => this.#done(response),
    'chatapi.timings': ({ timings }) => this.#timed(timings),
    error: ({ error }) => this.#told.onfault(faultOf(error)),
  };

  /**
   * @param {import('./thread.js').Thread} thread
   * @param {import('./loudspeaker.js').Loudspeaker} loudspeaker
   * @param {object} told
   * @param {(state: string) => void} told.onstate  listening, hearing, thinking, speaking or paused
   * @param {(fault: import('./faults.js').Fault) => void} told.onfault  it goes on
   * @param {(id: string) => void} told.onconversation  the box has kept a turn there
   */
  constructor(thread, loudspeaker, told) {
    this.#thread = thread;
    this.#loudspeaker = loudspeaker;
    this.#told = told;
  }

  /** A connection on which it goes on. */
  follow(door) {
    this.#door = door;
    this.#items.clear();
    this.#ended = null;
  }

  /** @param {{type: string}} event  the box's */
  take(event) {
    this.#takers[event.type]?.(event);
  }

  /** @param {import('./loudspeaker.js').Progress} progress */
  played({ answer: number, heard }) {
    const answer = this.#answer;
    if (answer?.number !== number || answer.broken || heard === answer.heard) return;
    if (!answer.heard) {
      answer.sounds(this.#ended === null ? null : (performance.now() - this.#ended) / 1000);
      this.#told.onstate('speaking');
    }
    answer.hear(heard);
    this.#reports += 1;
    if (this.#reports % REPORTS === 0 || heard === answer.samples) {
      this.#door.send('chatapi.played', { audio_end_ms: Math.floor((1000 * heard) / RATE) });
    }
    this.#settle();
  }

  /** It is left: the box is told first, so that it remembers what was heard of an answer. */
  leave() {
    if (this.#answer && !this.#answer.broken) {
      this.#door?.send('output_audio_buffer.clear');
      this.#told.onconversation(this.#answer.conversation);
    }
    this.lose(false);
  }

  /** The connection is gone: what goes on ends here. */
  lose(broken = true) {
    clearTimeout(this.#timer);
    this.#nothing();
    this.#loudspeaker.clear();
    this.#answer?.cut();
    this.#answer?.conclude(broken);
    this.#answer = null;
  }

  // What is said

  #started() {
    clearTimeout(this.#timer);
    this.#cut();
    this.#told.onstate('hearing');
  }

  #stopped({ audio_end_ms: end }) {
    this.#ended = this.#door.captured(end);
    this.#told.onstate('thinking');
  }

  /** The view of what is being said. */
  #asked() {
    this.#question ??= this.#thread.question('');
    return this.#question;
  }

  #understood(text) {
    this.#asked().say(text);
    this.#question = null;
    this.#timer = setTimeout(() => this.#told.onstate('listening'), ANSWERED);
  }

  /** It held no words, or they could not be understood. */
  #nothing(fault = null) {
    this.#question?.element.remove();
    this.#question = null;
    this.#thread.invite();
    if (fault) this.#told.onfault(fault);
    if (!this.#answer) this.#told.onstate('listening');
  }

  #deleted(id) {
    const gone = this.#items.get(id);
    if (!gone) return;
    if (this.#answer?.element === gone) this.#answer = null;
    gone.remove();
    this.#items.delete(id);
  }

  // What is answered

  #begun({ conversation_id: conversation }) {
    clearTimeout(this.#timer);
    this.#answer?.conclude();
    const number = this.#loudspeaker.begin();
    this.#answer = new LiveAnswer(this.#thread.answer(), { number, conversation, rate: RATE });
    this.#told.onstate('thinking');
  }

  #sounds(samples) {
    if (!this.#answer || this.#answer.broken) return;
    this.#answer.sound(samples);
    this.#loudspeaker.add(samples);
  }

  #paused(on) {
    if (on) this.#loudspeaker.pause();
    else this.#loudspeaker.resume();
    this.#answer?.paused(on);
    this.#told.onstate(on ? 'paused' : this.#answer ? 'speaking' : 'listening');
  }

  #done(response) {
    if (response.status !== 'failed') this.#told.onconversation(response.conversation_id);
    if (response.status === 'cancelled') this.#cut();
    this.#answer?.done(response);
  }

  #timed(timings) {
    this.#answer?.timed(timings);
    this.#settle();
  }

  #cut() {
    if (!this.#answer || this.#answer.broken) return;
    this.#loudspeaker.clear();
    this.#answer.cut();
    this.#settle();
  }

  #settle() {
    const answer = this.#answer;
    if (!answer?.over) return;
    this.#answer = null;
    answer.conclude();
    // Whoever broke it off is being heard.
    if (!answer.broken) this.#told.onstate('listening');
  }
}
