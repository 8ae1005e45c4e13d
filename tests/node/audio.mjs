// Transcribes a recording with OpenAI's client: `node audio.mjs URL FILE`.
// Prints the results as one line of JSON.
import { createReadStream } from 'node:fs';
import OpenAI from 'openai';

const [baseURL, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const transcribe = (more) =>
  client.audio.transcriptions.create({ file: createReadStream(path), model: 'whisper-1', ...more });
const found = { text: (await transcribe({})).text, deltas: '' };
for await (const event of await transcribe({ stream: true })) {
  if (event.type === 'transcript.text.delta') found.deltas += event.delta;
  else found.streamed = event.text;
}
found.srt = await transcribe({ response_format: 'srt' });
const timed = await transcribe({ response_format: 'verbose_json', timestamp_granularities: ['word'] });
found.words = timed.words;
const translation = await client.audio.translations.create({ file: createReadStream(path), model: 'whisper-1' });
found.translated = translation.text;
await transcribe({ temperature: 9 }).catch((error) => (found.param = error.param));
const speech = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input: 'Hello there, you all.' });
found.spoken = (await speech.arrayBuffer()).byteLength;
console.log(JSON.stringify(found));
