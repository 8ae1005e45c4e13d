/** Trains: the button, the progress and the curve of a running training, and its verdict. */

import { button, element } from '../dom.js';
import { Fault, reasonOf } from '../faults.js';
import { number, t } from '../texts.js';
import { trainingCurve } from './figures.js';

/** Time between two looks at a training, in milliseconds. */
const POLL = 500;
/** What the server writes while it trains: `step 120 of 300: loss 0.412`. */
const STEP = /step (\d+) of \d+: loss ([\d.]+)/;

export class Training {
  root;
  #frame;
  #requests;
  #ondone;
  #start;
  #cancel;
  #running = element('div', { class: 'commands-running' });
  #progress = element('progress', { max: '1', value: '0', 'aria-label': t('commands.progress') });
  #phrase = element('p', { class: 'commands-soft' });
  #curve = element('div', {});
  #verdict = element('div', { role: 'status' });
  #job = null;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {import('./requests.js').CommandRequests} requests
   * @param {() => Promise<object>} ondone  called after a training; resolves to the versions
   */
  constructor(frame, requests, ondone) {
    this.#frame = frame;
    this.#requests = requests;
    this.#ondone = ondone;
    this.#start = button(t('commands.train'), () => this.#train(), { class: 'commands-main' });
    this.#cancel = button(t('commands.cancel'), () => this.#requests.cancel(this.#job.id).catch((error) => frame.notice(Fault.from(error))), { class: 'plain' });
    this.#running.append(this.#progress, this.#phrase, this.#curve, this.#cancel);
    this.#running.hidden = true;
    this.root = element('section', { class: 'commands-card' }, element('h2', {}, t('commands.training')),
      element('p', { class: 'commands-soft' }, t('commands.train_advice')), this.#start, this.#running, this.#verdict);
  }

  /** Follows a training that is under way. */
  async resume() {
    if (this.#job) return;
    const job = await this.#requests.training();
    if (job && !this.#job) this.#follow(job);
  }

  async #train() {
    this.#verdict.replaceChildren();
    try {
      await this.#follow(await this.#requests.train());
    } catch (error) {
      if (this.#frame.signal.aborted) return;
      const fault = Fault.from(error);
      if (fault.code === 'nothing_to_train') this.#say(t('commands.nothing'), true);
      else this.#frame.notice(fault);
    }
  }

  async #follow(job) {
    this.#job = job;
    const curve = [];
    this.#show(true);
    try {
      while (!['done', 'failed', 'cancelled'].includes(job.state)) {
        this.#shown(job, curve);
        await new Promise((resolve) => { setTimeout(resolve, POLL); });
        if (this.#frame.signal.aborted) return;
        job = await this.#requests.job(job.id);
      }
      this.#ended(job, await this.#ondone());
    } catch (error) {
      if (!this.#frame.signal.aborted) this.#frame.notice(Fault.from(error));
    } finally {
      this.#job = null;
      this.#show(false);
    }
  }

  #shown(job, curve) {
    this.#progress.value = job.progress;
    this.#phrase.textContent = job.state === 'running' ? t('commands.running', number(Math.round(100 * job.progress))) : t('commands.waiting');
    const step = STEP.exec(job.phrase);
    if (step && curve.at(-1)?.[0] !== Number(step[1])) curve.push([Number(step[1]), Number(step[2])]);
    if (curve.length > 1) this.#curve.replaceChildren(trainingCurve(curve));
  }

  #ended(job, { versions }) {
    if (job.state === 'failed') {
      this.#say(reasonOf(job.failure, true), true);
      return;
    }
    if (job.state === 'cancelled') return;
    const made = versions.find((each) => each.job === job.id);
    if (!made) return;
    if (!made.verdict.length) {
      this.#say(t('commands.better', made.number), false);
      return;
    }
    this.#say(t('commands.worse', made.number), true);
    this.#verdict.append(element('ul', { class: 'commands-verdict' }, ...made.verdict.map((each) => element('li', {}, each))));
  }

  #say(words, bad) {
    this.#verdict.replaceChildren(element('p', { class: bad ? 'commands-bad' : 'commands-good' }, words));
  }

  #show(running) {
    this.#start.hidden = running;
    this.#running.hidden = !running;
    if (!running) this.#curve.replaceChildren();
  }
}
