// Calls a tool through OpenAI's agents SDK: `node tools.mjs URL KEY QUESTION`.
// Prints one line of JSON: the arguments of the tool call, and the transcripts of both sides.
import { RealtimeAgent, RealtimeSession, tool } from '@openai/agents-realtime';

const [url, key, question] = process.argv.slice(2);
const found = { called: [], errors: [], ended: [] };
const weather = tool({
  name: 'weather',
  description: 'Tells the weather of a city.',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
  strict: true,
  execute: async (given) => {
    found.called.push(given);
    return `sunny in ${given.city}`;
  },
});
const agent = new RealtimeAgent({ name: 'box', instructions: 'Be brief.', tools: [weather] });
const session = new RealtimeSession(agent, { transport: 'websocket', model: 'gpt-realtime' });
session.on('error', (event) => found.errors.push(JSON.stringify(event.error ?? event)));
session.on('agent_tool_end', (_context, _agent, { name }, result) => found.ended.push([name, result]));
const answered = new Promise((resolve) => {
  let responses = 0;
  session.on('transport_event', (event) => {
    if (event.type === 'response.done' && ++responses === 2) resolve();
  });
});
await session.connect({ apiKey: key, url });
session.sendMessage(question);
await answered;
found.history = session.history.map((item) =>
  item.type === 'message'
    ? [item.role, item.content.map((part) => part.text ?? part.transcript).join('')]
    : [item.type, item.output],
);
console.log(JSON.stringify(found));
session.close();
