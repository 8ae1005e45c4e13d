/** The view of the conversation: creates its parts and connects them. They stay while another view is shown. */

import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { Drawer } from './conversations/drawer.js';
import { byId } from './dom.js';
import { Fault } from './faults.js';
import { Live } from './live.js';
import { LiveDock } from './live-dock.js';
import { Microphone } from './microphone.js';
import { Player } from './player.js';
import { preferences } from './preferences.js';
import { t } from './texts.js';
import { Thread } from './thread.js';

export const title = t('talk.title');

/** Faults after which pressing Talk again may help. */
const RETRYABLE = ['microphone_lost', 'live_lost', 'too_many_sessions', 'session_idle', 'unreachable'];

/** @type {Parts|null} */
let parts = null;

/** @param {import('./frame.js').Mount} frame */
export function mount(root, frame) {
  parts ??= new Parts(frame.api);
  parts.mount(frame);
}

export function unmount() {
  parts.unmount();
}

class Parts {
  #frame = null;
  #restored = false;
  #player = new Player();
  #buttons = [byId('open-conversations'), byId('new')];

  constructor(api) {
    const player = this.#player;
    this.thread = new Thread(player);
    this.conversation = new Conversation(api, player, this.thread, {
      onbusy: (busy) => this.composer.busy(busy),
      announce: (words) => this.#frame?.announce(words),
      askKey: (again) => this.#unlock(again),
      openSettings: () => this.#frame?.openSettings(),
      onlost: () => this.#frame?.checkBox(),
      putBack: (prompt) => this.composer.putBack(prompt),
    });
    this.composer = new Composer({
      onsend: (prompt) => {
        this.#frame.clearNotice();
        this.conversation.ask(prompt);
      },
      onstop: () => this.conversation.stop(),
      onfull: () => this.#notice(new Fault('field_full')),
    });
    this.microphone = new Microphone({
      onbegin: () => {
        this.#frame.clearNotice();
        this.conversation.stop();
      },
      onrecorded: (recording) => this.conversation.askAloud(recording),
      onfault: (fault) => this.#notice(fault),
      onstate: (words) => this.#frame?.announce(words),
    });
    this.#connectDrawer(api);
    this.#connectLive(api);
    this.#connectPlayer();
    this.#connectPage();
  }

  mount(frame) {
    this.#frame = frame;
    frame.actions.append(...this.#buttons);
    frame.onmodels(({ limits }) => {
      this.microphone.longest = limits.audio_seconds;
      this.composer.longest = limits.prompt_chars;
    });
    frame.onload(() => this.#restore());
    this.composer.focus();
  }

  /** Leaves the view: nothing is recorded while another one is shown; a running answer completes. */
  unmount() {
    this.microphone.cancel();
    this.live.end();
    this.#frame = null;
  }

  #connectDrawer(api) {
    const drawer = new Drawer(api, {
      current: () => preferences.conversation,
      onopen: (id) => this.#open(id),
      onnew: () => this.#renew(),
      ondeleted: () => this.#renew(),
      onrestored: (id) => this.#open(id),
      onfault: (fault) => this.#notice(fault),
    });
    byId('open-conversations').addEventListener('click', () => drawer.open());
  }

  #connectLive(api) {
    this.live = new Live(api, this.thread, {
      onstate: (state, detail) => this.dock.show(state, detail),
      onlevel: (level, mine) => {
        this.dock.addLevel(level, mine);
        if (!mine) this.#player.onlevel(level);
      },
      onfault: (fault) => {
        const again = [{ words: t('talk.talk_again'), pressed: () => this.#talk() }];
        this.#notice(fault, this.live.on || !RETRYABLE.includes(fault.code) ? [] : again);
      },
      onforgotten: () => this.conversation.forgotten(),
      askKey: (again) => this.#unlock(again),
    });
    this.dock = new LiveDock({
      onstart: () => this.#talk(),
      onend: () => this.live.end(),
      onmute: (on) => { this.live.muted = on; },
    });
  }

  #connectPlayer() {
    this.#player.onlevel = (level) => {
      document.documentElement.style.setProperty('--loudness', level.toFixed(3));
    };
    this.#player.onspeaking = (on) => this.#frame?.showActivity(on ? t('talk.speaking') : '');
    this.#player.onblocked = () => this.#notice(new Fault('sound_blocked'));
    for (const touched of ['pointerup', 'keydown']) {
      document.addEventListener(touched, () => {
        this.#player.unlock();
        this.live.wake();
      }, { capture: true });
    }
  }

  #connectPage() {
    byId('new').addEventListener('click', () => this.#renew());
    byId('examples').addEventListener('click', ({ target }) => {
      if (target instanceof HTMLButtonElement) this.conversation.ask(target.textContent);
    });
    document.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || !this.#frame || document.querySelector('dialog[open]')) return;
      if (this.live.on) this.live.end();
      else if (this.microphone.recording) this.microphone.cancel();
      else this.conversation.stop();
    });
  }

  async #restore() {
    try {
      if (!this.#restored) await this.conversation.restore();
      this.#restored = true;
    } finally {
      this.thread.invite();
    }
  }

  #renew() {
    this.#interrupt();
    this.conversation.renew();
    this.#frame?.announce(t('talk.new'));
    this.composer.focus();
  }

  async #open(id) {
    this.#interrupt();
    try {
      await this.conversation.open(id);
    } catch (error) {
      this.#notice(Fault.from(error), [{ words: t('frame.try_again'), pressed: () => this.#open(id) }]);
    }
    this.composer.focus();
  }

  /** Ends what belongs to the shown conversation. */
  #interrupt() {
    this.microphone.cancel();
    this.live.end();
    this.#frame?.clearNotice();
  }

  /** Starts a live conversation, which continues the shown conversation. */
  #talk() {
    this.microphone.cancel();
    this.conversation.stop();
    this.#frame?.clearNotice();
    this.live.start();
  }

  /** Prompts for the key where the view is shown; elsewhere the turn fails. */
  #unlock(again) {
    return this.#frame ? this.#frame.unlock(again) : Promise.resolve(false);
  }

  #notice(fault, ways = []) {
    this.#frame?.notice(fault, ways);
  }
}
