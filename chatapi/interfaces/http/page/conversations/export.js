/** Conversations as files. */

import { element } from '../dom.js';
import { t } from '../texts.js';

/** Characters of a title in the name of a file. */
const NAME_CHARS = 60;

/** @param {{title: string, messages: {role: string, text: string}[]}} conversation */
export function markdown({ title, messages }) {
  const heading = `# ${title || t('conversations.untitled')}\n`;
  const parts = messages.map(({ role, text }) => `**${t(role === 'user' ? 'conversations.you' : 'conversations.box')}**\n\n${text}\n`);
  return [heading, ...parts].join('\n');
}

/** Saves a text as a file of the browser. */
export function download(title, ending, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const name = (title || t('conversations.untitled')).replace(/[^\p{L}\p{N}_-]+/gu, ' ').trim().slice(0, NAME_CHARS) || 'conversation';
  element('a', { href: url, download: `${name}.${ending}` }).click();
  // The browser reads it after the click.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
