/** What can go wrong, and how it is put to people: what happened and what to do. */

/** Anything that stops the page from doing what was asked. */
export class Fault extends Error {
  /**
   * @param {string} code  the server's, or one of the page's own (see WORDS)
   * @param {{detail?: string, status?: number, retryAfter?: number|null, requestId?: string}} [known]
   */
  constructor(code, { detail = '', status = 0, retryAfter = null, requestId = '' } = {}) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.status = status;
    /** Seconds after which to try again; null: trying again alone does not help. */
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  /** From the members of an `application/problem+json`. */
  static fromProblem(problem, retryAfter = null) {
    return new Fault(String(problem.code ?? 'error'), {
      detail: String(problem.detail ?? problem.title ?? ''),
      status: Number(problem.status ?? 0),
      retryAfter,
      requestId: String(problem.request_id ?? ''),
    });
  }

  /** Whatever was thrown, as a Fault. */
  static from(error) {
    if (error instanceof Fault) return error;
    // Browsers say no more than TypeError when a server cannot be reached.
    if (error instanceof TypeError) return new Fault('unreachable', { detail: error.message });
    return new Fault('page_fault', { detail: String(error?.message ?? error) });
  }
}

const WORDS = {
  microphone_denied: ['The microphone is blocked', 'Allow it for this page in the browser’s site settings (the icon beside the address), then try again.'],
  no_microphone: ['No microphone found', 'Plug one in or switch it on, then try again. Typing works without one.'],
  microphone_busy: ['The microphone cannot be used', 'Another program may be holding it. Close that program, then try again.'],
  microphone_lost: ['The microphone went away', 'It was unplugged or switched off. Connect it and begin again.'],
  insecure: ['The microphone needs a secure address', 'Browsers give it only to https:// pages and to localhost. Start the box with --tls and open its https:// address, or open this page on the box itself as http://localhost. Typing works here too.'],
  no_recorder: ['This browser cannot record', 'It lacks AudioWorklet. A current Firefox, Chrome, Edge or Safari can record; typing works here too.'],
  too_short: ['That was too short', 'Hold the microphone for as long as you speak, or tap it once, speak, and tap again.'],
  sound_blocked: ['The sound is blocked', 'The browser plays nothing before you touch the page. Press play under the answer; if it stays silent, check that a loudspeaker is connected.'],
  no_speech: ['No speech heard', 'Check that the right microphone is chosen and not muted, come a little closer, and try again.'],
  no_words: ['No words understood', 'Something was heard, but no words. Speak a little louder or closer, or choose your language in the settings.'],
  audio_too_long: ['The recording is too long', ''],
  body_too_large: ['That is too much at once', 'Record something shorter.'],
  body_too_slow: ['The recording arrived too slowly', 'The connection is weak. Move closer to the access point, or record something shorter.'],
  prompt_too_long: ['The question is too long', 'Shorten it and send it again.'],
  field_full: ['That is as long as a question may be', 'The box takes no more; what goes beyond is left out.'],
  empty_prompt: ['The question is empty', 'Type something first.'],
  unauthorized: ['The key is missing or wrong', 'Enter the API key that was chosen when the box was set up.'],
  scope_missing: ['The key is not for this', 'It opens other parts of the box only. Ask whoever runs it for a key with the scope “talk”, then forget this one in the settings.'],
  rate_limited: ['Too many requests', 'The key is for a certain number a minute. Wait a little.'],
  keys_damaged: ['The box lets nobody in', 'Its file of keys is damaged. Whoever runs it has to restore it.'],
  too_many_sessions: ['Others are talking with the box', 'It holds only so many live conversations at once. Wait until one ends and press Talk again; typing works meanwhile.'],
  live_lost: ['The connection was lost', 'The box did not come back within half a minute. Check that it is switched on, then press Talk: the conversation goes on where it was.'],
  no_websocket: ['A live conversation cannot be opened', 'The box answers, but no WebSocket gets through to it: a proxy in between may be in the way. Typing and the microphone button work.'],
  session_idle: ['The conversation was ended', 'Nothing came from the microphone for a long time. Press Talk to go on.'],
  unknown_voice: ['That voice is no longer installed', 'Choose another one in the settings.'],
  unknown_language: ['That language is not understood here', 'Choose another one in the settings, or “Automatic”.'],
  unknown_host: ['This address is not allowed', 'The box does not know itself by this name: add it to server.hosts in its settings.'],
  busy: ['The box is busy', 'Others are talking to it.'],
  conversation_busy: ['The last answer is still being put away', ''],
  not_ready: ['The box is warming up', 'Its models are still loading.'],
  deadline_exceeded: ['That took too long', 'The box gave up on it. Try again, or ask something shorter.'],
  engine_failed: ['Something failed on the box', 'It mends itself; try again in a moment.'],
  engine_stuck: ['The box got stuck', 'It is restarting the part that hung; try again in a moment.'],
  engine_gone: ['A part of the box stopped', 'It is being restarted; try again in a moment.'],
  storage_fault: ['The box cannot store the conversation', 'Its disk may be full. Free some space on it, then try again.'],
  history_locked: ['The conversations are in use', 'Another program on the box holds them. Try again in a moment.'],
  history_not_kept: ['Conversations are not kept', 'The box answers, but cannot write to its disk: what is said now is lost when it restarts. Whoever runs it can see why with “chatapi check”.'],
  history_set_aside: ['Earlier conversations are missing', 'The file they were in was damaged. The box has set it aside and begun a new one; whoever runs it can see which with “chatapi check”.'],
  not_forgotten: ['The earlier conversation is still on the box', 'Here a new one begins, but the box could not be told to forget the last.'],
  unreachable: ['The box cannot be reached', 'Check that it is switched on and that this device is on the same network.'],
  broken_off: ['The connection broke off', 'What had arrived is shown. Try again to get the whole answer.'],
  silent: ['The box stopped answering', 'Nothing has come for a long time. Try again; if it stays silent, restart the box.'],
  not_events: ['That was no answer of this box', 'Something between this page and the box answered instead. Check the address.'],
  page_fault: ['The page stumbled', 'Reload it and try again.'],
};

/**
 * A fault in plain words.
 * @param {Fault} fault
 * @returns {{title: string, advice: string, small: string}} `small` is for whoever runs the box
 */
export function explained(fault) {
  const [title, advice] = WORDS[fault.code] ?? unlisted(fault);
  const reference = fault.status >= 500 && fault.requestId ? `Reference ${fault.requestId}` : '';
  const told = fault.status > 0 && !advice.includes(fault.detail) ? fault.detail : '';
  const small = (advice ? [told, reference] : [reference]).filter(Boolean).join(' · ');
  return { title, advice: advice || sentence(fault.detail), small };
}

function unlisted(fault) {
  if (fault.status === 503) return ['Not just now', 'Try again in a moment.'];
  if (fault.status >= 500) return ['Something failed on the box', 'Try again; if it happens again, its log says more.'];
  return ['The box did not accept that', ''];
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?…]$/.test(text) ? '' : '.'}` : '';
}
