// OpenAI's client for Node: HTTP, Responses and the Realtime API.
import { createReadStream } from 'node:fs';
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { CALL, expect, expectFox, expectSpeech, FAKE, feature, FOX, main, REAL, TLS } from './features.mjs';

const fake = new OpenAI({ baseURL: `${FAKE}/v1`, apiKey: 'none', maxRetries: 0 });
const real = new OpenAI({ baseURL: `${REAL}/v1`, apiKey: 'none', maxRetries: 0 });
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const hello = { model: 'gpt-5', messages: [{ role: 'user', content: 'Hello box' }] };

feature('chat completions', async () => {
  const completion = await fake.chat.completions.create(hello);
  expect(completion.choices[0].message.content === 'You said: Hello box.', completion);
});

feature('chat completions, streamed', async () => {
  const final = await fake.chat.completions.stream(hello).finalChatCompletion();
  expect(final.choices[0].message.content === 'You said: Hello box.', final);
});

feature('chat completions, tools', async () => {
  let called;
  const weather = { name: 'weather', parameters, parse: JSON.parse, function: ({ city }) => ((called = city), 'sunny') };
  const runner = fake.chat.completions.runTools({
    model: 'gpt-5',
    messages: [{ role: 'user', content: CALL }],
    tools: [{ type: 'function', function: weather }],
  });
  const text = await runner.finalContent();
  expect(called === 'Rome' && text.includes('sunny'), [called, text]);
});

feature('responses', async () => {
  const response = await fake.responses.create({ model: 'gpt-5', input: 'Hello box' });
  expect(response.output_text === 'You said: Hello box.', response);
});

feature('responses, streamed', async () => {
  const final = await fake.responses.stream({ model: 'gpt-5', input: 'Hello box' }).finalResponse();
  expect(final.output_text === 'You said: Hello box.', final);
});

feature('transcription', async () => {
  const made = await real.audio.transcriptions.create({ model: 'whisper-1', file: createReadStream(FOX) });
  expectFox(made.text);
});

feature('speech', async () => {
  const asked = { model: 'gpt-4o-mini-tts', voice: 'alloy', input: 'Good morning to you.', response_format: 'pcm' };
  const reply = await real.audio.speech.create(asked);
  expectSpeech(Buffer.from(await reply.arrayBuffer()), 24_000, 0.6, 4);
});

feature('realtime, over wss', async () => {
  // The client insists on wss.
  const socket = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, new OpenAI({ baseURL: `${TLS}/v1`, apiKey: 'none' }));
  await new Promise((resolve, reject) => {
    const audio = [];
    socket.on('error', reject);
    socket.on('response.output_audio.delta', (event) => audio.push(Buffer.from(event.delta, 'base64')));
    socket.on('response.done', () => {
      try {
        expectSpeech(Buffer.concat(audio), 24_000, 0.1, 9);
        resolve();
      } catch (error) {
        reject(error);
      }
    });
    socket.socket.on('open', () => {
      const content = [{ type: 'input_text', text: 'Hello box' }];
      socket.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content } });
      socket.send({ type: 'response.create' });
    });
  });
  socket.close();
});

await main();
