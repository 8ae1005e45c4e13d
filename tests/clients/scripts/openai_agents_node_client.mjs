// OpenAI's Agents SDK for Node: agents over Responses, and RealtimeSession over its WebSocket.
import { Agent, run, setDefaultOpenAIClient, setOpenAIAPI, setTracingDisabled, tool } from '@openai/agents';
import { RealtimeAgent, RealtimeSession, tool as realtimeTool } from '@openai/agents/realtime';
import OpenAI from 'openai';
import { z } from 'zod';
import { CALL, expect, expectSpeech, FAKE, feature, main, pcm24k, QUESTION, REAL } from './features.mjs';

setTracingDisabled(true);
setDefaultOpenAIClient(new OpenAI({ baseURL: `${FAKE}/v1`, apiKey: 'none', maxRetries: 0 }));
let called = [];
const description = {
  name: 'weather',
  description: 'The weather of a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    called.push(city);
    return 'sunny';
  },
};

feature('agent', async () => {
  const result = await run(new Agent({ name: 'box', instructions: 'Be brief.' }), 'Hello box');
  expect(result.finalOutput === 'You said: Hello box.', result.finalOutput);
});

feature('agent, streamed', async () => {
  const result = await run(new Agent({ name: 'box' }), 'Hello box', { stream: true });
  let text = '';
  for await (const part of result.toTextStream()) text += part;
  expect(text === 'You said: Hello box.', text);
});

feature('agent, tools', async () => {
  called = [];
  const result = await run(new Agent({ name: 'box', tools: [tool(description)] }), CALL);
  expect(called[0] === 'Rome' && result.finalOutput.includes('sunny'), [called, result.finalOutput]);
});

feature('agent, structured output', async () => {
  const result = await run(new Agent({ name: 'box', outputType: z.object({ name: z.string() }) }), 'Ada');
  expect(result.finalOutput.name === 'Ada', result.finalOutput);
});

feature('agent, chat completions', async () => {
  setOpenAIAPI('chat_completions');
  called = [];
  const result = await run(new Agent({ name: 'box', model: 'gpt-4o', tools: [tool(description)] }), CALL);
  setOpenAIAPI('responses');
  expect(called[0] === 'Rome' && result.finalOutput.includes('sunny'), [called, result.finalOutput]);
});

async function connected(url, agent) {
  const session = new RealtimeSession(agent, { transport: 'websocket', model: 'gpt-realtime' });
  await session.connect({ apiKey: 'none', url: `${url.replace('http', 'ws')}/v1/realtime?model=gpt-realtime` });
  return session;
}

feature('realtime, voice', async () => {
  const session = await connected(REAL, new RealtimeAgent({ name: 'box', instructions: 'Be brief.' }));
  const audio = [];
  const done = new Promise((resolve, reject) => {
    session.on('error', (event) => reject(new Error(JSON.stringify(event.error ?? event))));
    session.on('audio', (event) => audio.push(Buffer.from(event.data)));
    session.on('audio_stopped', resolve);
  });
  const sound = Buffer.concat([pcm24k(QUESTION), Buffer.alloc(2 * 24_000 * 2)]);
  for (let at = 0; at < sound.length; at += 4800) session.sendAudio(new Uint8Array(sound.subarray(at, at + 4800)).buffer);
  await done;
  session.close();
  expectSpeech(Buffer.concat(audio), 24_000, 0.3, 90);
});

feature('realtime, tools', async () => {
  called = [];
  const agent = new RealtimeAgent({ name: 'box', tools: [realtimeTool(description)] });
  const session = await connected(FAKE, agent);
  await new Promise((resolve, reject) => {
    session.on('error', (event) => reject(new Error(JSON.stringify(event.error ?? event))));
    session.on('agent_tool_end', resolve);
    session.sendMessage(CALL);
  });
  session.close();
  expect(called[0] === 'Rome', called);
});

feature('realtime, client secrets', async () => {
  const client = new OpenAI({ baseURL: `${REAL}/v1`, apiKey: 'none', maxRetries: 0 });
  const secret = await client.realtime.clientSecrets.create({ session: { type: 'realtime' } });
  expect(secret.value, secret);
});

await main();
