/** Takes recordings: from the microphone, by choice of files, and dropped. */

import { button, element, icon, showIcon } from '../dom.js';
import { clock } from '../durations.js';
import { Fault } from '../faults.js';
import { Recorder } from '../recorder.js';
import { t } from '../texts.js';
import { wav } from '../wav.js';
import { Meter } from '../waveform.js';

export class ClipInput {
  root;
  #frame;
  #onclips;
  #multiple;
  #recorder = null;
  #recordings = 0;
  #words = element('span');
  #record;
  #level = element('div', { class: 'meter', role: 'meter', 'aria-label': t('talk.loudness'), 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-valuenow': '0', hidden: '' });
  #meter = new Meter(this.#level);
  #clock = element('span', { class: 'clock' });

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {{id: string, label: string, more: string, multiple: boolean}} options
   * @param {(files: File[]) => void} onclips
   */
  constructor(frame, { id, label, more, multiple }, onclips) {
    this.#frame = frame;
    this.#onclips = onclips;
    this.#multiple = multiple;
    const input = element('input', { type: 'file', id, class: 'unseen', tabindex: '-1', 'aria-label': label, accept: 'audio/*,video/*', ...(multiple ? { multiple: '' } : {}) });
    input.addEventListener('change', () => {
      this.#take([...input.files]);
      input.value = '';
    });
    const choose = button('', () => input.click(), { class: 'drop' });
    choose.append(icon('upload'), element('strong', {}, label), element('span', {}, more));
    this.#record = button('', () => this.#toggle(), { class: 'plain voices-record' });
    this.#record.append(icon('mic'), this.#words);
    const recorder = element('div', { class: 'voices-recorder' }, this.#record, this.#level, this.#clock);
    this.root = element('div', { class: 'voices-input' }, input, choose, recorder);
    this.#show(false);
    this.#acceptDrops();
  }

  close() {
    this.#recorder?.cancel();
    this.#stopped();
  }

  #take(files) {
    if (files.length) this.#onclips(this.#multiple ? files : files.slice(0, 1));
  }

  #acceptDrops() {
    const over = (on) => this.root.classList.toggle('dropping', on);
    this.root.addEventListener('dragover', (event) => {
      event.preventDefault();
      over(true);
    });
    this.root.addEventListener('dragleave', (event) => event.relatedTarget && this.root.contains(event.relatedTarget) || over(false));
    this.root.addEventListener('drop', (event) => {
      event.preventDefault();
      over(false);
      this.#take([...event.dataTransfer.files]);
    });
  }

  async #toggle() {
    try {
      if (!this.#recorder) {
        this.#recorder = await Recorder.open({ onlevel: (level) => this.#onlevel(level), onlost: () => this.#stopped() });
        this.#recorder.wake();
        this.#show(true);
        return;
      }
      const recorder = this.#recorder;
      this.#stopped();
      const recording = await recorder.close();
      this.#recordings += 1;
      this.#take([new File([wav(recording)], t('voices.recording', this.#recordings), { type: 'audio/wav' })]);
    } catch (error) {
      this.#stopped();
      this.#frame.notice(Fault.from(error));
    }
  }

  #onlevel(level) {
    if (!this.#recorder) return;
    this.#meter.add(level);
    this.#clock.textContent = clock(this.#recorder.seconds);
  }

  #stopped() {
    this.#recorder = null;
    this.#show(false);
  }

  #show(recording) {
    this.#words.textContent = t(recording ? 'voices.stop' : 'voices.record');
    this.#record.setAttribute('aria-pressed', String(recording));
    showIcon(this.#record, recording ? 'stop' : 'mic');
    this.#level.hidden = !recording;
    this.#clock.textContent = recording ? clock(0) : '';
    this.#meter.clear();
  }
}
