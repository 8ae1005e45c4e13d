/** Faults, and their messages for users: what happened and what to do. */

/** An error that the page shows to the user. */
export class Fault extends Error {
  /**
   * @param {string} code  the server's, or one of the page's own (see MESSAGES)
   * @param {{detail?: string, status?: number, retryAfter?: number|null, requestId?: string}} [known]
   */
  constructor(code, { detail = '', status = 0, retryAfter = null, requestId = '' } = {}) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.status = status;
    /** Delay before a retry, in seconds; null when a retry alone does not help. */
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

  /** Any thrown value, as a Fault. */
  static from(error) {
    if (error instanceof Fault) return error;
    // Browsers throw a plain TypeError when a server cannot be reached.
    if (error instanceof TypeError) return new Fault('unreachable', { detail: error.message });
    return new Fault('page_fault', { detail: String(error?.message ?? error) });
  }
}

const MESSAGES = {
  microphone_denied: ['The microphone is blocked', 'Allow it for this page in the browser’s site settings (the icon beside the address), then try again.'],
  no_microphone: ['No microphone found', 'Plug one in or switch it on, then try again. Typing works without one.'],
  microphone_busy: ['The microphone cannot be used', 'Another program may be using it. Close that program, then try again.'],
  microphone_lost: ['The microphone was lost', 'It was unplugged or switched off. Connect it and try again.'],
  insecure: ['The microphone needs a secure address', 'Browsers allow it only on https:// pages and localhost. Start the box with --tls and open its https:// address, or open this page on the box itself as http://localhost. Typing works here too.'],
  no_recorder: ['This browser cannot record', 'It lacks AudioWorklet. A current Firefox, Chrome, Edge or Safari can record; typing works here too.'],
  too_short: ['That was too short', 'Hold the microphone for as long as you speak, or tap it once, speak, and tap again.'],
  sound_blocked: ['Audio is blocked', 'The browser plays no audio before you interact with the page. Press play under the answer; if it stays silent, check that a loudspeaker is connected.'],
  no_speech: ['No speech detected', 'Check that the right microphone is selected and not muted, come closer, and try again.'],
  no_words: ['No words recognized', 'There was audio, but the transcript is empty. Speak louder or closer, or select your language in the settings.'],
  audio_too_long: ['The recording is too long', ''],
  body_too_large: ['The request is too large', 'Record something shorter.'],
  body_too_slow: ['The recording arrived too slowly', 'The connection is weak. Move closer to the access point, or record something shorter.'],
  prompt_too_long: ['The question is too long', 'Shorten it and send it again.'],
  field_full: ['The question has reached its longest length', 'Text beyond the limit is left out.'],
  empty_prompt: ['The question is empty', 'Type something first.'],
  unauthorized: ['The key is missing or wrong', 'Enter the API key that was set for this box.'],
  scope_missing: ['The key does not allow this', 'It lacks the scope “talk”. Ask the owner of the box for a key with it, then remove this key in the settings.'],
  rate_limited: ['Too many requests', 'The key has a limit of requests per minute. Wait a little.'],
  keys_damaged: ['The box rejects all keys', 'Its key file is damaged. The owner of the box has to restore it.'],
  too_many_sessions: ['Too many live conversations', 'The box has a limit of live conversations at once. Wait until one ends and press Talk again; typing works meanwhile.'],
  live_lost: ['The connection was lost', 'The box did not come back within half a minute. Check that it is switched on, then press Talk to continue the conversation.'],
  no_websocket: ['A live conversation cannot be opened', 'The box responds, but a WebSocket does not reach it: a proxy may block it. Typing and the microphone button work.'],
  session_idle: ['The conversation timed out', 'The microphone sent nothing for a long time. Press Talk to continue.'],
  unknown_voice: ['That voice is no longer installed', 'Select another one in the settings.'],
  unknown_language: ['That language is not supported', 'Select another one in the settings, or “Automatic”.'],
  unknown_host: ['This address is not allowed', 'The host name is not in server.hosts: add it in the settings of the box.'],
  busy: ['The box is busy', 'It serves other requests.'],
  conversation_busy: ['The previous turn is not finished yet', ''],
  not_ready: ['The box is warming up', 'Its models are still loading.'],
  deadline_exceeded: ['The request timed out', 'The box cancelled it. Try again, or ask something shorter.'],
  engine_failed: ['Something failed on the box', 'It recovers by itself; try again in a moment.'],
  engine_stuck: ['An engine of the box hangs', 'The box restarts it; try again in a moment.'],
  engine_crashed: ['An engine of the box crashed', 'The box restarts it; try again in a moment.'],
  engine_gone: ['An engine of the box crashed', 'The box restarts it; try again in a moment.'],
  storage_fault: ['The box cannot store the conversation', 'Its disk may be full. Free some space on it, then try again.'],
  history_locked: ['The conversation history is locked', 'Another program on the box uses it. Try again in a moment.'],
  history_not_kept: ['Conversations are not stored', 'The box answers, but cannot write to its disk: this conversation is lost when it restarts. “chatapi check” on the box shows why.'],
  history_set_aside: ['Earlier conversations are missing', 'The conversation history was damaged. The box set it aside and started a new one; “chatapi check” on the box shows which file.'],
  not_forgotten: ['The earlier conversation is still on the box', 'A new one starts here, but the box could not delete the previous one.'],
  unreachable: ['The box cannot be reached', 'Check that it is switched on and that this device is on the same network.'],
  broken_off: ['The connection was lost', 'The part that arrived is shown. Try again to get the whole answer.'],
  silent: ['The box stopped responding', 'Nothing has arrived for a long time. Try again; if it does not respond, restart the box.'],
  not_events: ['The response did not come from this box', 'Something between this page and the box responded instead. Check the address.'],
  page_fault: ['The page has an error', 'Reload it and try again.'],
};

/**
 * The message of a fault.
 * @param {Fault} fault
 * @returns {{title: string, advice: string, small: string}} `small` is for the owner of the box
 */
export function messageOf(fault) {
  const [title, advice] = MESSAGES[fault.code] ?? unlisted(fault);
  const reference = fault.status >= 500 && fault.requestId ? `Reference ${fault.requestId}` : '';
  const detail = fault.status > 0 && !advice.includes(fault.detail) ? fault.detail : '';
  const small = (advice ? [detail, reference] : [reference]).filter(Boolean).join(' · ');
  return { title, advice: advice || sentence(fault.detail), small };
}

function unlisted(fault) {
  if (fault.status === 503) return ['Temporarily unavailable', 'Try again in a moment.'];
  if (fault.status >= 500) return ['Something failed on the box', 'Try again; if it happens again, see the log of the box.'];
  return ['The box rejected the request', ''];
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?…]$/.test(text) ? '' : '.'}` : '';
}
