// Anthropic's Node client: an answer, a stream with thinking, a round trip of a tool, a count.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.TANDEM_URL, apiKey: process.env.TANDEM_KEY });
const base = { model: process.env.TANDEM_MODEL, max_tokens: 1000 };
const ask = (text) => [{ role: 'user', content: text }];

const message = await client.messages.create({ ...base, messages: ask('plain-question') });
assert.equal(message.content[0].text, 'plain-answer');

const thinking = { type: 'enabled', budget_tokens: 1024 };
const stream = client.messages.stream({ ...base, thinking, messages: ask('plain-question') });
let thought = '';
stream.on('thinking', (piece) => { thought += piece; });
const final = await stream.finalMessage();
assert.equal(thought, 'Hm.');
assert.deepEqual(final.content.map((block) => block.type), ['thinking', 'text']);
assert.equal(final.content[1].text, 'plain-answer');
assert.ok(final.usage.output_tokens > 0);

const tools = [{ name: 'get_weather', description: 'The weather of a city.',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } }];
const messages = ask('tool-question');
const first = await client.messages.stream({ ...base, thinking, tools, messages }).finalMessage();
assert.equal(first.stop_reason, 'tool_use');
const call = first.content.find((block) => block.type === 'tool_use');
assert.deepEqual([call.id, call.name, call.input],
  ['functions.get_weather:0', 'get_weather', { city: 'Paris' }]);
messages.push({ role: 'assistant', content: first.content }, { role: 'user',
  content: [{ type: 'tool_result', tool_use_id: call.id, content: 'Sunny' }] });
const second = await client.messages.create({ ...base, thinking, tools, messages });
assert.equal(second.content.at(-1).text, 'It is sunny in Paris.');

const counted = await client.messages.countTokens({ model: base.model, messages });
assert.ok(counted.input_tokens > 0);
await assert.rejects(client.messages.create({ ...base, messages: [] }), Anthropic.BadRequestError);
