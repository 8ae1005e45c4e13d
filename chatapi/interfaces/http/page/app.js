/** The page: creates its parts and connects them. */

import { card } from './answer.js';
import { Api } from './api.js';
import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { byId } from './dom.js';
import { Fault } from './faults.js';
import { Live } from './live.js';
import { LiveDock } from './live-dock.js';
import { Microphone } from './microphone.js';
import { askKey, confirmRenewal, Options } from './options.js';
import { Player } from './player.js';
import { preferences } from './preferences.js';
import { Readiness } from './readiness.js';
import { Thread } from './thread.js';

const STATES = {
  connecting: 'Connecting',
  ready: 'Ready',
  warming: 'Warming up',
  locked: 'Locked',
  offline: 'The box cannot be reached',
};

/** Faults after which pressing Talk again may help. */
const RETRYABLE = ['microphone_lost', 'live_lost', 'too_many_sessions', 'session_idle', 'unreachable'];

let restored = false;
let speaking = false;

const api = new Api(() => preferences.key);
const player = new Player();
const thread = new Thread(player);
const conversation = new Conversation(api, player, thread, {
  onbusy: (busy) => composer.busy(busy),
  announce,
  askKey: unlock,
  openSettings: () => byId('open-options').click(),
  onfault: notice,
  onlost: () => readiness.check(),
  putBack: (prompt) => composer.putBack(prompt),
});
const composer = new Composer({
  onsend: (prompt) => {
    clearNotice();
    conversation.ask(prompt);
  },
  onstop: () => conversation.stop(),
  onfull: () => notice(new Fault('field_full')),
});
const microphone = new Microphone({
  onbegin: () => {
    clearNotice();
    conversation.stop();
  },
  onrecorded: (recording) => conversation.askAloud(recording),
  onfault: notice,
  onstate: announce,
});
const live = new Live(api, thread, {
  onstate: (state, detail) => dock.show(state, detail),
  onlevel: (level, mine) => {
    dock.addLevel(level, mine);
    if (!mine) player.onlevel(level);
  },
  onfault: (fault) => notice(fault, live.on || !RETRYABLE.includes(fault.code) ? [] : [{ words: 'Talk again', pressed: talk }]),
  onforgotten: () => conversation.forgotten(),
  askKey: unlock,
});
const dock = new LiveDock({
  onstart: talk,
  onend: () => live.end(),
  onmute: (on) => { live.muted = on; },
});
const readiness = new Readiness(api, (state, before) => {
  byId('status').dataset.state = state;
  showStatus();
  if (state === 'ready' && before !== 'connecting') (restored ? loadModels : load)();
}, warn);
const options = new Options(loadModels);
player.onlevel = (level) => {
  document.documentElement.style.setProperty('--loudness', level.toFixed(3));
};
player.onspeaking = (on) => {
  speaking = on;
  showStatus();
};
player.onblocked = () => notice(new Fault('sound_blocked'));

byId('new').addEventListener('click', async () => {
  microphone.cancel();
  live.end();
  if (!thread.empty && !(await confirmRenewal())) return;
  clearNotice();
  conversation.renew();
  announce('New conversation');
  composer.focus();
});
byId('examples').addEventListener('click', ({ target }) => {
  if (target instanceof HTMLButtonElement) conversation.ask(target.textContent);
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || document.querySelector('dialog[open]')) return;
  if (live.on) live.end();
  else if (microphone.recording) microphone.cancel();
  else conversation.stop();
});
for (const touched of ['pointerup', 'keydown']) {
  document.addEventListener(touched, () => {
    player.unlock();
    live.wake();
  }, { capture: true });
}
window.addEventListener('error', () => notice(new Fault('page_fault')));
window.addEventListener('unhandledrejection', ({ reason }) => notice(Fault.from(reason)));

composer.focus();
await load();

/** Starts a live conversation, which continues the shown conversation. */
function talk() {
  microphone.cancel();
  conversation.stop();
  clearNotice();
  live.start();
}

/** Loads the state of the box; also after a key was entered and after the box was unreachable. */
async function load() {
  const checked = readiness.check();
  try {
    if (!restored) await conversation.restore();
    restored = true;
    await loadModels();
    clearNotice();
  } catch (error) {
    const fault = Fault.from(error);
    if (fault.code === 'unauthorized') await unlock(false);
    // While the box warms up the status shows it, and this runs again once it is ready.
    else if (fault.status !== 503) notice(fault, [{ words: 'Try again', pressed: load }]);
  }
  thread.invite();
  await checked;
}

/** Loads the models, voices, languages and limits of the server. */
async function loadModels() {
  const known = await api.get('models');
  options.show(known);
  microphone.longest = known.limits.audio_seconds;
  composer.longest = known.limits.prompt_chars;
}

/** Prompts for the API key, and reloads the state with it. */
async function unlock(again) {
  if (!(await askKey(again))) return false;
  load();
  return true;
}

function showStatus() {
  const { state } = readiness;
  byId('status-words').textContent = speaking && state === 'ready' ? 'Speaking' : STATES[state];
}

/** Shows a fault above the text field. */
function notice(fault, ways = []) {
  const shown = card(fault, [...ways, { words: 'Close', pressed: clearNotice }]);
  byId('notice').replaceChildren(shown);
}

/** Shows warnings until they are resolved or closed. */
function warn(codes) {
  const place = byId('warnings');
  place.replaceChildren(...codes.map((code) => {
    const shown = card(new Fault(code), [{ words: 'Close', pressed: () => shown.remove() }]);
    return shown;
  }));
}

function clearNotice() {
  byId('notice').replaceChildren();
}

function announce(words) {
  byId('announcer').textContent = words;
}
