// Creates chat completions with OpenAI's client for Node: `node chat.mjs URL KEY`. Prints one line of JSON.
import OpenAI from 'openai';

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const asked = { model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'from Node' }] };
const found = { deltas: [], bytes: 0, transcript: '' };

found.models = (await client.models.list()).data.length;
const whole = await client.chat.completions.create(asked);
found.whole = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens];

const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  if (chunk.choices[0]?.delta.content) found.deltas.push(chunk.choices[0].delta.content);
  if (chunk.usage) found.usage = chunk.usage.completion_tokens;
}

const spoken = await client.chat.completions.create({
  ...asked,
  stream: true,
  modalities: ['text', 'audio'],
  audio: { voice: 'alloy', format: 'pcm16' },
});
for await (const chunk of spoken) {
  const audio = chunk.choices[0]?.delta.audio ?? {};
  found.transcript += audio.transcript ?? '';
  found.bytes += Buffer.from(audio.data ?? '', 'base64').length;
}

// The client's accumulating helper, and its loop that calls tools until there is an answer.
const helper = client.chat.completions.stream(asked);
found.helped = (await helper.finalChatCompletion()).choices[0].message.content;
const weather = {
  name: 'weather',
  description: 'The weather of a city.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  parse: JSON.parse,
  function: ({ city }) => {
    found.called = city;
    return 'sunny';
  },
};
const runner = client.chat.completions.runTools({
  ...asked,
  tools: [{ type: 'function', function: weather }],
  tool_choice: { type: 'function', function: { name: 'weather' } },
});
await runner.done().catch((error) => (found.runner = error.message));

const formed = await client.chat.completions.parse({
  ...asked,
  response_format: {
    type: 'json_schema',
    json_schema: { name: 'p', schema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] } },
  },
});
found.formed = JSON.parse(formed.choices[0].message.content);

const question = { model: 'gpt-4o-mini', input: 'from Node', store: false };
const response = await client.responses.create(question);
found.response = [response.output_text, response.status];
const following = client.responses.stream(question);
found.events = [];
for await (const event of following) found.events.push(event.type);
found.streamed = (await following.finalResponse()).output_text;
const place = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
const [call] = (
  await client.responses.create({
    ...question,
    tools: [{ type: 'function', name: 'name_place', parameters: place, strict: false }],
    tool_choice: 'required',
  })
).output;
found.function = [call.name, JSON.parse(call.arguments)];

try {
  await client.chat.completions.create({ ...asked, max_token: 2 });
} catch (error) {
  found.refused = [error.constructor.name, error.status, error.code, error.param];
}
const left = await client.chat.completions.create({ ...asked, stream: true });
for await (const chunk of left) {
  if (chunk) break;
}
console.log(JSON.stringify(found));
