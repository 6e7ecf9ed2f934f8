// OpenAI's Node client: /v1/responses streamed and not, and the chat's own stream helper and tools.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.env.TANDEM_BASE_URL, apiKey: process.env.TANDEM_KEY });
const model = process.env.TANDEM_MODEL;

const response = await client.responses.create({ model, input: 'plain-question' });
assert.equal(response.output_text, 'plain-answer');
assert.ok(response.usage.total_tokens > 0);

const kinds = [];
const stream = client.responses.stream({ model, input: 'plain-question' });
for await (const event of stream) kinds.push(event.type);
const final = await stream.finalResponse();
assert.equal(final.output.at(-1).content[0].text, 'plain-answer');
assert.equal(kinds[0], 'response.created');
assert.equal(kinds.at(-1), 'response.completed');

const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const tools = [{ type: 'function', name: 'get_weather', strict: false, parameters }];
const turn = await client.responses.create({ model, input: 'tool-question', tools });
const call = turn.output.at(-1);
assert.deepEqual([call.type, call.name, JSON.parse(call.arguments)],
  ['function_call', 'get_weather', { city: 'Paris' }]);
const answer = await client.responses.create({ model, tools, input: [
  { role: 'user', content: 'tool-question' }, ...turn.output,
  { type: 'function_call_output', call_id: call.call_id, output: 'Sunny' }] });
assert.equal(answer.output_text, 'It is sunny in Paris.');

const schema = { type: 'object', properties: { city: { type: 'string' }, n: { type: 'number' } },
  required: ['city', 'n'], additionalProperties: false };
const formed = await client.responses.create({ model, input: 'schema-question',
  text: { format: { type: 'json_schema', name: 'answer', strict: true, schema } } });
assert.deepEqual(JSON.parse(formed.output_text), { city: 'Paris', n: 1 });

const asked = [];
const runner = client.chat.completions.runTools({ model,
  messages: [{ role: 'user', content: 'tool-question' }],
  tools: [{ type: 'function', function: { name: 'get_weather', parameters,
    parse: JSON.parse, function: ({ city }) => { asked.push(city); return 'Sunny'; } } }] });
assert.equal(await runner.finalContent(), 'It is sunny in Paris.');
assert.deepEqual(asked, ['Paris']);

const chat = client.chat.completions.stream({ model, stream_options: { include_usage: true },
  messages: [{ role: 'user', content: 'plain-question' }] });
assert.equal(await chat.finalContent(), 'plain-answer');
assert.ok((await chat.totalUsage()).completion_tokens > 0);
