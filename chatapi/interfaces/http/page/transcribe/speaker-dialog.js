/** The dialog that names a speaker. */

import { button, element, icon } from '../dom.js';
import { t } from '../texts.js';

/**
 * @param {string} label  of the transcript, for example A
 * @param {string} name   the present name, or the label
 * @param {string[]} known  all names, as suggestions
 * @returns {Promise<string|null>} the new name, '' for none; null: it was dismissed
 */
export async function renameSpeaker(label, name, known) {
  const input = element('input', { type: 'text', id: 'speaker-name', maxlength: '100', autocomplete: 'off', list: 'speaker-known' });
  input.value = name === label ? '' : name;
  input.placeholder = t('transcribe.speaker', label);
  const close = button('', () => dialog.close(), { class: 'round', 'aria-label': t('frame.close') });
  close.append(icon('close'));
  const form = element(
    'form', { method: 'dialog' },
    element('header', {}, element('h2', { id: 'speaker-title' }, t('transcribe.name_speaker', label)), close),
    element('label', { class: 'stacked', for: 'speaker-name' }, element('span', {}, t('transcribe.speaker_name')), input),
    element('datalist', { id: 'speaker-known' }, ...known.map((value) => element('option', { value }))),
    element('button', { class: 'filled wide', value: 'save' }, t('transcribe.save')),
  );
  const dialog = element('dialog', { 'aria-labelledby': 'speaker-title' }, form);
  document.body.append(dialog);
  dialog.showModal();
  input.select();
  await new Promise((resolve) => { dialog.addEventListener('close', resolve, { once: true }); });
  dialog.remove();
  return dialog.returnValue === 'save' ? input.value.trim() : null;
}
