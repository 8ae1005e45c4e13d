/** Parses server-sent events (HTML standard, 9.2.6), as far as this server uses them. */

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<{name: string, data: string, id: string}>}  id: '' where the event has none
 */
export async function* serverSentEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = rest.split(/\r\n\r\n|\n\n|\r\r/);
      // The part after the last blank line is incomplete; at the end it is dropped, as the standard requires.
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
      if (done) return;
    }
  } finally {
    // Also runs when the consumer stops early: the connection closes, and the server cancels the turn.
    await reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  let name = 'message';
  let id = '';
  const data = [];
  for (const line of block.split(/\r\n|\n|\r/)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === 'event') name = value;
    else if (field === 'id') id = value;
    else if (field === 'data') data.push(value);
  }
  return data.length ? { name, data: data.join('\n'), id } : null;
}
