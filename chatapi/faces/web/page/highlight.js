/** Marking the words that are being spoken, without touching the text's elements. */

const NAME = 'spoken';
const WORD = /[\p{L}\p{N}]+/gu;
const SENTENCE_END = /[.!?…。！？]+["'”’)]*(?=\s|$)/gu;

/** Uses the CSS Custom Highlight API; where a browser lacks it nothing is marked. */
export class Highlighter {
  /**
   * @param {Text} node
   * @param {[number, number]|null|undefined} range  from and to, in UTF-16 units of the node
   */
  show(node, range) {
    if (!globalThis.Highlight) return;
    if (!range) {
      CSS.highlights.delete(NAME);
      return;
    }
    const marked = new Range();
    marked.setStart(node, Math.min(range[0], node.length));
    marked.setEnd(node, Math.min(range[1], node.length));
    CSS.highlights.set(NAME, new Highlight(marked));
  }
}

/**
 * Where in a text the spoken words stand. As spoken, numbers and abbreviations are written out, so the words may
 * differ: then it goes on to where the last spoken word stands, else to the end of the sentence.
 * @returns {[number, number]}
 */
export function located(text, spoken, from) {
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
