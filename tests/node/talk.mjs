// Talks to the box with OpenAI's agents SDK: `node talk.mjs URL KEY`, raw 24 kHz PCM on standard input.
// Prints one line of JSON: the transcripts of both sides, and the length of the received audio.
import { RealtimeAgent, RealtimeSession } from '@openai/agents-realtime';

const [url, key] = process.argv.slice(2);
const pieces = [];
for await (const piece of process.stdin) pieces.push(piece);
const microphone = Buffer.concat(pieces);
const session = new RealtimeSession(new RealtimeAgent({ name: 'box', instructions: 'Be brief.' }), {
  transport: 'websocket',
  model: 'gpt-realtime',
  config: { audio: { input: { turnDetection: { type: 'server_vad', silenceDurationMs: 200 } } } },
});
const found = { bytes: 0, turns: 0, interrupted: 0, errors: [], kinds: [] };
const done = new Promise((resolve) => {
  session.on('audio', (event) => (found.bytes += event.data.byteLength));
  session.on('audio_interrupted', () => (found.interrupted += 1));
  session.on('error', (event) => found.errors.push(JSON.stringify(event.error ?? event)));
  session.on('transport_event', (event) => {
    found.kinds.push(event.type);
    if (event.type === 'response.done') {
      found.turns += 1;
      resolve();
    }
  });
});
await session.connect({ apiKey: key, url });
for (let at = 0; at < microphone.length; at += 4800) {
  const piece = microphone.subarray(at, at + 4800);
  session.sendAudio(piece.buffer.slice(piece.byteOffset, piece.byteOffset + piece.length));
}
await done;
await new Promise((resolve) => setTimeout(resolve, 200));
session.interrupt();
session.sendMessage('and now in writing');
await new Promise((resolve) => setTimeout(resolve, 1000));
found.history = session.history.map((item) => [item.role, item.content.map((part) => part.text ?? part.transcript)]);
console.log(JSON.stringify(found));
session.close();
