// OpenAI's Node client, streaming: thinking first, then the answer, and a tool call put together.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.env.TANDEM_BASE_URL, apiKey: process.env.TANDEM_KEY });
const model = process.env.TANDEM_MODEL;
const kWrongWords = 3; // exit status: the exchange went well, the model said something else

function check(condition, message) {
  if (!condition) {
    console.error(`failed: ${message}`);
    process.exit(1);
  }
}

function expectWords(what, text, ...words) {
  const missing = words.filter((word) => !text.includes(word));
  if (missing.length > 0) {
    console.log(`${what} is ${JSON.stringify(text)}: expected ${missing} in it`);
    process.exit(kWrongWords);
  }
}

async function read(request) {
  const stream = await client.chat.completions.create({
    model, temperature: 1.0, seed: 1, max_tokens: 1024, stream: true,
    stream_options: { include_usage: true }, ...request });
  const got = { thinking: '', answer: '', calls: [], finish: null, usage: null };
  for await (const chunk of stream) {
    got.usage = chunk.usage ?? got.usage;
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta.reasoning_content) {
      got.thinking += choice.delta.reasoning_content;
      process.stdout.write(choice.delta.reasoning_content);
    }
    if (choice.delta.content) {
      got.answer += choice.delta.content;
      process.stdout.write(choice.delta.content);
    }
    for (const call of choice.delta.tool_calls ?? []) {
      const known = (got.calls[call.index] ??= { id: '', name: '', arguments: '' });
      known.id += call.id ?? '';
      known.name += call.function?.name ?? '';
      known.arguments += call.function?.arguments ?? '';
    }
    got.finish = choice.finish_reason ?? got.finish;
  }
  process.stdout.write('\n');
  return got;
}

const plain = await read({
  messages: [{ role: 'user', content: 'which one is bigger, 9.11 or 9.9? think carefully.' }] });
check(plain.finish === 'stop', `finish_reason ${plain.finish}`);
check(plain.thinking !== '', 'no thinking was streamed');
check(plain.usage?.completion_tokens > 0, `usage ${JSON.stringify(plain.usage)}`);
expectWords('the answer', plain.answer, '9.9 is bigger');

const tools = [{
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Get weather information. Call this tool when the user needs to get weather information',
    parameters: {
      type: 'object', required: ['city'],
      properties: { city: { type: 'string', description: 'City name' } } } } }];
const call = await read({
  tools, messages: [{ role: 'user', content: "What's the weather like in Paris today?" }] });
if (call.calls.length === 0) expectWords('the answer', call.answer, 'a call of get_weather');
check(call.finish === 'tool_calls', `finish_reason ${call.finish}`);
check(call.calls[0].id === 'functions.get_weather:0', `call id ${call.calls[0].id}`);
check(call.calls[0].name === 'get_weather', `call name ${call.calls[0].name}`);
expectWords('the city', JSON.parse(call.calls[0].arguments).city ?? '', 'Paris');
