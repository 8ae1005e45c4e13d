/** Highlights the spoken text without changing the DOM. */

const NAME = 'spoken';
const WORD = /[\p{L}\p{N}]+/gu;
const SENTENCE_END = /[.!?…。！？]+["'”’)]*(?=\s|$)/gu;

/** Uses the CSS Custom Highlight API; without it nothing is highlighted. */
export class Highlighter {
  /** @param {Range|null} words */
  show(words) {
    if (!globalThis.Highlight) return;
    if (words) CSS.highlights.set(NAME, new Highlight(words));
    else CSS.highlights.delete(NAME);
  }
}

/**
 * @param {Text} node
 * @param {[number, number]} range  from and to, in UTF-16 units of the node
 */
export function wordsAt(node, [from, to]) {
  const words = new Range();
  words.setStart(node, Math.min(from, node.length));
  words.setEnd(node, Math.min(to, node.length));
  return words;
}

/**
 * The position of spoken text in the written text. Text normalization expands numbers and abbreviations, so the words
 * may differ: then the range ends at the last spoken word, else at the end of the sentence.
 * @returns {[number, number]}
 */
export function locate(text, spoken, from) {
  const exact = text.indexOf(spoken.trim(), from);
  if (exact >= 0) return [exact, exact + spoken.trim().length];
  const start = from + /^\s*/.exec(text.slice(from))[0].length;
  return [start, endOf(text, spoken, start)];
}

function endOf(text, spoken, start) {
  const words = spoken.toLowerCase().match(WORD) ?? [];
  const last = words.at(-1);
  const near = start + 2 * spoken.length + 20;
  for (const match of text.slice(start, near).matchAll(WORD)) {
    const end = start + match.index + match[0].length;
    if (match[0].toLowerCase() === last && end - start > spoken.length / 3) return end;
  }
  const sentence = text.slice(start).matchAll(SENTENCE_END).next().value;
  return sentence ? start + sentence.index + sentence[0].length : text.length;
}
