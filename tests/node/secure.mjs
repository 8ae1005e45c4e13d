// Opens the Realtime API with OpenAI's client for Node, which insists on TLS: `node secure.mjs URL KEY`.
// Prints one line of JSON: what the box answers in writing, and the type of a session that only transcribes.
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
const found = { errors: [] };

const opened = async (props, last, start) => {
  const box = new OpenAIRealtimeWS(props, client);
  const done = new Promise((resolve) => {
    box.on('error', (error) => resolve(found.errors.push(String(error))));
    box.on(last, resolve);
  });
  box.on('session.created', () => start?.(box));
  const event = await done;
  box.close();
  return event;
};

const done = await opened({ model: 'gpt-realtime' }, 'response.done', (box) => {
  box.send({ type: 'session.update', session: { type: 'realtime', output_modalities: ['text'] } });
  const content = [{ type: 'input_text', text: 'hello' }];
  box.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content } });
  box.send({ type: 'response.create' });
});
found.answer = done.response?.output[0].content[0].text;
const created = await opened({ intent: 'transcription' }, 'session.created');
found.type = created.session?.type;
console.log(JSON.stringify(found));
