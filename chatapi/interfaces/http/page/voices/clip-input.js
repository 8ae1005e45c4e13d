/** Takes recordings: from the microphone, by choice of files, and dropped. */

import { button, element } from '../dom.js';
import { Fault } from '../faults.js';
import { Recorder } from '../recorder.js';
import { t } from '../texts.js';
import { wav } from '../wav.js';

export class ClipInput {
  root;
  #frame;
  #onclip;
  #recorder = null;
  #record;

  /**
   * @param {import('../frame.js').Mount} frame
   * @param {{id: string, label: string, multiple: boolean}} options
   * @param {(files: File[]) => void} onclips
   */
  constructor(frame, { id, label, multiple }, onclips) {
    this.#frame = frame;
    this.#onclip = onclips;
    const input = element('input', { type: 'file', id, accept: 'audio/*,video/*', ...(multiple ? { multiple: '' } : {}) });
    input.addEventListener('change', () => {
      if (input.files.length) onclips([...input.files]);
      input.value = '';
    });
    this.#record = button(t('voices.record'), () => this.#toggle(), { 'aria-pressed': 'false' });
    this.root = element('div', { class: 'voices-drop' }, element('label', { for: id }, label), input, this.#record);
    this.root.addEventListener('dragover', (event) => event.preventDefault());
    this.root.addEventListener('drop', (event) => {
      event.preventDefault();
      const files = [...event.dataTransfer.files];
      if (files.length) onclips(multiple ? files : files.slice(0, 1));
    });
  }

  close() {
    this.#recorder?.cancel();
    this.#recorder = null;
  }

  async #toggle() {
    try {
      if (!this.#recorder) {
        this.#recorder = await Recorder.open({ onlevel: () => {}, onlost: () => this.#stopped() });
        this.#recorder.wake();
        this.#show(true);
        return;
      }
      const recorder = this.#recorder;
      this.#stopped();
      const recording = await recorder.close();
      this.#onclip([new File([wav(recording)], t('voices.recording'), { type: 'audio/wav' })]);
    } catch (error) {
      this.#stopped();
      this.#frame.notice(Fault.from(error));
    }
  }

  #stopped() {
    this.#recorder = null;
    this.#show(false);
  }

  #show(recording) {
    this.#record.textContent = t(recording ? 'voices.stop' : 'voices.record');
    this.#record.setAttribute('aria-pressed', String(recording));
  }
}
