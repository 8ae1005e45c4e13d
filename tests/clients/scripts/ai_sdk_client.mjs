// Vercel's AI SDK with its providers for OpenAI and for compatible servers.
import { readFileSync } from 'node:fs';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import * as ai from 'ai';
import { z } from 'zod';
import { CALL, expect, expectFox, FAKE, feature, FOX, main, REAL } from './features.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: `${FAKE}/v1`, apiKey: 'none' });
const real = createOpenAI({ baseURL: `${REAL}/v1`, apiKey: 'none' });
const compatible = createOpenAICompatible({
  name: 'box',
  baseURL: `${FAKE}/v1`,
  apiKey: 'none',
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const models = { responses: openai('gpt-4o'), chat: openai.chat('gpt-4o'), compatible: compatible('default') };
const schema = z.object({ name: z.string() });

for (const [name, model] of Object.entries(models)) {
  feature(`${name}: generateText`, async () => {
    const { text } = await ai.generateText({ model, system: 'Be brief.', prompt: 'Hello box', maxRetries: 0 });
    expect(text === 'You said: Hello box.', text);
  });

  feature(`${name}: streamText`, async () => {
    const result = ai.streamText({ model, prompt: 'Hello box', maxRetries: 0, onError() {} });
    let text = '';
    for await (const part of result.textStream) text += part;
    expect(text === 'You said: Hello box.', text);
  });

  feature(`${name}: tools`, async () => {
    const called = [];
    const weather = ai.tool({
      description: 'The weather of a city.',
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => (called.push(city), 'sunny'),
    });
    const asked = { model, prompt: CALL, tools: { weather }, stopWhen: ai.stepCountIs(2), maxRetries: 0 };
    const { steps } = await ai.generateText(asked);
    expect(called[0] === 'Rome' && steps.length === 2, [called, steps.length]);
  });

  feature(`${name}: generateObject`, async () => {
    const { object } = await ai.generateObject({ model, schema, prompt: 'Ada', maxRetries: 0 });
    expect(object.name === 'Ada', object);
  });
}

feature('transcribe', async () => {
  const audio = readFileSync(FOX);
  const { text } = await ai.experimental_transcribe({ model: real.transcription('whisper-1'), audio, maxRetries: 0 });
  expectFox(text);
});

feature('generateSpeech', async () => {
  const model = real.speech('gpt-4o-mini-tts');
  const asked = { model, text: 'Good morning.', voice: 'alloy', instructions: 'Speak slowly.', maxRetries: 0 };
  const { audio } = await ai.experimental_generateSpeech(asked);
  expect(audio.uint8Array.length > 5000, audio.uint8Array.length);
});

feature('embed', async () => {
  const model = openai.textEmbeddingModel('text-embedding-3-small');
  const { embedding } = await ai.embed({ model, value: 'Hello', maxRetries: 0 });
  expect(embedding.length > 10, embedding);
});

await main();
