// The official SDKs, unmodified, inside a task: runs the cases that the input names and reports what each saw.
// In: {"cases": ["name", ...], "server": URL or none: their own listener}   Out: {"name": {"ok": true, ...} | {"ok": false, "error": "..."}}
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const task = JSON.parse(readFileSync(0, 'utf8'));
const GPT = 'gpt-4o-mini-2024-07-18';
const CLAUDE = 'claude-haiku-4-5-20251001';
if (task.input.server) {
  process.env.OPENAI_BASE_URL = `${task.input.server}/v1`;
  process.env.ANTHROPIC_BASE_URL = task.input.server;
}
let attempts = 0; // requests that left an SDK: the gateway is the only one that may repeat what failed
const counting = (...args) => { attempts += 1; return fetch(...args); };
const openai = new OpenAI({ fetch: counting }); // everything else from the environment
const anthropic = new Anthropic({ fetch: counting });
const patient = new OpenAI({ maxRetries: 2, fetch: counting });
const user = (content) => [{ role: 'user', content }];

const openaiTool = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Returns the weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string', enum: ['Paris', 'Oslo'] } }, required: ['city'] },
  },
};
const anthropicTool = { name: 'get_weather', description: 'Returns the weather of a city', input_schema: openaiTool.function.parameters };
const QUESTION = 'What is the weather in Paris? Use get_weather.';

async function raised(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('nothing was raised');
}

function addUsage(total, input, output) {
  total.inputTokens += input;
  total.outputTokens += output;
  return total;
}
const nothing = () => ({ inputTokens: 0, outputTokens: 0 });

const cases = {
  async openaiPlain() {
    const { data, response } = await openai.chat.completions
      .create({ model: GPT, messages: user('Say hello to Ada'), max_completion_tokens: 60 }).withResponse();
    assert.ok(data.choices[0].message.content.length > 0);
    assert.equal(data.choices[0].finish_reason, 'stop');
    assert.equal(response.headers.get('x-gantry-task'), task.taskId);
    assert.equal(response.headers.get('x-gantry-version'), task.versionId);
    assert.match(response.headers.get('x-gantry-cost-usd'), /^0\.\d{9}$/);
    assert.equal(response.headers.get('x-gantry-cache'), 'off');
    return { usage: addUsage(nothing(), data.usage.prompt_tokens, data.usage.completion_tokens) };
  },
  async openaiStream() {
    const stream = await openai.chat.completions.create({
      model: GPT, messages: user('Tell me about the sea and the tides'), stream: true,
      stream_options: { include_usage: true }, max_completion_tokens: 100,
    });
    let text = '', usage, finish, chunks = 0;
    for await (const chunk of stream) {
      chunks += 1;
      text += chunk.choices[0]?.delta?.content ?? '';
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.ok(text.length > 0 && chunks > 2, `${chunks} chunks`);
    assert.equal(finish, 'stop');
    return { usage: addUsage(nothing(), usage.prompt_tokens, usage.completion_tokens) };
  },
  async openaiStreamWithoutUsage() { // the chunk that Gantry asks for is not the client's to see
    const stream = await openai.chat.completions.create({ model: GPT, messages: user('Count to three'), stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk.choices.length > 0, 'a chunk without choices');
      assert.ok(!chunk.usage, 'a chunk with usage');
    }
    return {};
  },
  async openaiTools() {
    const messages = user(QUESTION);
    const first = await openai.chat.completions.create({ model: GPT, messages, tools: [openaiTool] });
    const call = first.choices[0].message.tool_calls[0];
    assert.equal(first.choices[0].finish_reason, 'tool_calls');
    assert.equal(call.function.name, 'get_weather');
    assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Paris' });
    messages.push(first.choices[0].message, { role: 'tool', tool_call_id: call.id, content: '{"sky":"drizzle"}' });
    const second = await openai.chat.completions.create({ model: GPT, messages, tools: [openaiTool] });
    assert.match(second.choices[0].message.content, /drizzle/);
    return { toolCalls: 1 };
  },
  async openaiRunTools() { // the SDK's own loop, over streams
    let asked = 0;
    const runner = openai.chat.completions.runTools({
      model: GPT, messages: user(QUESTION), stream: true,
      tools: [{ type: 'function', function: { ...openaiTool.function, parse: JSON.parse, function: ({ city }) => { asked += 1; return { city, sky: 'drizzle' }; } } }],
    });
    const text = await runner.finalContent();
    assert.equal(asked, 1);
    assert.match(text, /drizzle/);
    return { toolCalls: 1 };
  },
  async openaiModels() {
    const ids = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    assert.ok(ids.includes(GPT), ids.join());
    return {};
  },
  async openaiBadRequest() {
    const error = await raised(openai.chat.completions.create({ model: GPT, messages: 'not a list' }));
    assert.ok(error instanceof OpenAI.BadRequestError, String(error));
    assert.ok(error.message.length > 10);
    return {};
  },
  async openaiServerErrorIsRetriedByTheGatewayOnly() {
    const error = await raised(patient.chat.completions.create({ model: GPT, messages: user('[[sim mode=fail status=500]]') }));
    assert.ok(error instanceof OpenAI.InternalServerError, String(error));
    assert.equal(error.headers.get('x-should-retry'), 'false');
    assert.equal(attempts, 1);
    return { failures: 3 };
  },
  async openaiRateLimit() {
    const error = await raised(patient.chat.completions.create({ model: GPT, messages: user('[[sim mode=rate-limit]]') }));
    assert.ok(error instanceof OpenAI.RateLimitError, String(error));
    assert.equal(attempts, 1);
    return { failures: 3 };
  },
  async openaiTruncatedStreamRaises() {
    const error = await raised((async () => {
      const stream = await openai.chat.completions.create({ model: GPT, messages: user('[[sim mode=truncate]] Tell me about the sea'), stream: true });
      for await (const chunk of stream) void chunk;
    })());
    assert.ok(error instanceof OpenAI.APIError || error instanceof Error, String(error));
    return { raised: error.constructor.name };
  },
  async openaiStreamWithoutFinishRaises() { // raw streams take a clean end for success: Gantry must not let that pass
    for (const mode of ['no-finish', 'done-early']) {
      const error = await raised((async () => {
        const stream = await openai.chat.completions.create({ model: GPT, messages: user(`[[sim mode=${mode}]] Tell me about the sea`), stream: true });
        for await (const chunk of stream) void chunk;
      })());
      assert.ok(error instanceof OpenAI.APIError, `${mode}: ${error}`);
    }
    return {};
  },
  async openaiAbortIsBilled() {
    const stream = await openai.chat.completions.create({ model: GPT, messages: user('[[sim mode=ramble delay=50]] Tell me a long story'), stream: true, max_completion_tokens: 200 });
    for await (const chunk of stream) {
      void chunk;
      break; // aborts the request
    }
    return {};
  },
  async openaiEmbeddings() {
    const found = await openai.embeddings.create({ model: 'text-embedding-3-small', input: 'the sea' });
    assert.ok(found.data[0].embedding.length > 0);
    return { usage: addUsage(nothing(), found.usage.prompt_tokens, 0) };
  },
  async openaiCapIsNotRetried() {
    const error = await raised((async () => {
      for (;;) await patient.chat.completions.create({ model: GPT, messages: user('Tell me about the sea'), max_completion_tokens: 200 });
    })());
    assert.equal(error.status, 402, String(error));
    assert.equal(error.code, 'budget_exceeded');
    assert.equal(error.type, 'insufficient_quota');
    assert.equal(error.headers.get('x-should-retry'), 'false');
    return { calls: attempts - 1 };
  },
  async openaiQuotaIsNotRetried() {
    const error = await raised(patient.chat.completions.create({ model: GPT, messages: user('[[sim mode=quota]]') }));
    assert.equal(error.code, 'insufficient_quota', String(error));
    assert.equal(attempts, 1);
    return { failures: 1 };
  },
  async openaiResponses() {
    const answer = await openai.responses.create({ model: GPT, input: 'Say hello to Ada', max_output_tokens: 60 });
    assert.equal(answer.status, 'completed');
    assert.ok(answer.output_text.length > 0);
    return { usage: addUsage(nothing(), answer.usage.input_tokens, answer.usage.output_tokens) };
  },
  async openaiResponsesStream() {
    const stream = openai.responses.stream({ model: GPT, input: 'Tell me about the sea and the tides' });
    let deltas = 0;
    for await (const event of stream) deltas += event.type === 'response.output_text.delta';
    const answer = await stream.finalResponse();
    assert.ok(deltas > 2, `${deltas} deltas`);
    assert.equal(answer.status, 'completed');
    return { usage: addUsage(nothing(), answer.usage.input_tokens, answer.usage.output_tokens) };
  },
  async openaiResponsesTruncatedRaises() {
    const error = await raised((async () => {
      const stream = await openai.responses.create({ model: GPT, input: '[[sim mode=truncate]] Tell me about the sea', stream: true });
      for await (const event of stream) assert.notEqual(event.type, 'response.completed');
    })());
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.equal(attempts, 1);
    return {};
  },
  async openaiStructured() {
    const schema = { type: 'object', properties: { city: { type: 'string' }, warm: { type: 'boolean' } }, required: ['city', 'warm'], additionalProperties: false };
    for (const model of [GPT, CLAUDE]) {
      const answer = await openai.chat.completions.create({
        model, messages: user('What is the weather in Paris?'),
        response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema } },
      });
      assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)).sort(), ['city', 'warm']);
    }
    return {};
  },
  async openaiLooks() { // at a model; not at what the provider has stored
    assert.equal((await openai.models.retrieve(GPT)).id, GPT);
    const error = await raised(openai.responses.retrieve('resp_1'));
    assert.ok(error instanceof OpenAI.NotFoundError, String(error));
    assert.equal(attempts, 2);
    return {};
  },
  // --- an OpenAI client answered by an Anthropic model, and back
  async openaiAskedOfClaude() {
    const answer = await openai.chat.completions.create({
      model: CLAUDE, messages: [{ role: 'developer', content: 'Be brief.' }, ...user('Say hello to Ada')], max_completion_tokens: 60,
    });
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.choices[0].finish_reason, 'stop');
    return { usage: addUsage(nothing(), answer.usage.prompt_tokens, answer.usage.completion_tokens) };
  },
  async openaiStreamOfClaude() {
    const stream = openai.chat.completions.stream({
      model: CLAUDE, messages: user('Tell me about the sea and the tides'), stream_options: { include_usage: true }, max_completion_tokens: 100,
    });
    let chunks = 0;
    for await (const chunk of stream) chunks += chunk.choices.length;
    const answer = await stream.finalChatCompletion();
    assert.ok(chunks > 2 && answer.choices[0].message.content.length > 0);
    assert.equal(answer.choices[0].finish_reason, 'stop');
    return { usage: addUsage(nothing(), answer.usage.prompt_tokens, answer.usage.completion_tokens) };
  },
  async openaiToolsOfClaude() {
    let asked = 0;
    const runner = openai.chat.completions.runTools({
      model: CLAUDE, messages: user(QUESTION), stream: true,
      tools: [{ type: 'function', function: { ...openaiTool.function, parse: JSON.parse, function: ({ city }) => { asked += 1; return { city, sky: 'drizzle' }; } } }],
    });
    assert.match(await runner.finalContent(), /drizzle/);
    assert.equal(asked, 1);
    return { toolCalls: 1 };
  },
  async openaiResponsesOfClaude() {
    const stream = openai.responses.stream({ model: CLAUDE, instructions: 'Be brief.', input: 'Tell me about the sea and the tides' });
    let text = '';
    for await (const event of stream) if (event.type === 'response.output_text.delta') text += event.delta;
    const answer = await stream.finalResponse();
    assert.equal(answer.output[0].content[0].text, text);
    return { usage: addUsage(nothing(), answer.usage.input_tokens, answer.usage.output_tokens) };
  },
  async openaiTruncatedClaudeRaises() {
    const error = await raised((async () => {
      const stream = await openai.chat.completions.create({ model: CLAUDE, messages: user('[[sim mode=truncate]] Tell me about the sea'), stream: true });
      for await (const chunk of stream) assert.ok(!chunk.choices[0].finish_reason);
    })());
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.equal(attempts, 1);
    return {};
  },
  async openaiAbortOfClaudeIsBilled() {
    const stream = await openai.chat.completions.create({ model: CLAUDE, messages: user('[[sim mode=ramble delay=50]] Tell me a long story'), stream: true, max_completion_tokens: 200 });
    for await (const chunk of stream) {
      void chunk;
      break; // aborts the request
    }
    return {};
  },
  async openaiErrorOfClaude() {
    const error = await raised(patient.chat.completions.create({ model: CLAUDE, messages: user('[[sim mode=overload]]') }));
    assert.equal(error.status, 529, String(error));
    assert.equal(error.type, 'server_error');
    assert.equal(attempts, 1);
    return { failures: 3 };
  },
  async openaiCannotBeAskedOfClaude() {
    const error = await raised(openai.chat.completions.create({ model: CLAUDE, messages: user('Hi'), n: 2 }));
    assert.ok(error instanceof OpenAI.BadRequestError, String(error));
    assert.equal(error.param, 'n');
    return { failures: 0 };
  },
  async fallbackToTheOtherApi() { // configured: gpt-4.1-mini-2025-04-14 has CLAUDE as its fallback
    const { data, response } = await openai.chat.completions
      .create({ model: 'gpt-4.1-mini-2025-04-14', messages: user('Say hello to Ada') }).withResponse();
    assert.equal(data.choices[0].finish_reason, 'stop');
    assert.equal(response.headers.get('x-gantry-degraded'), CLAUDE);
    assert.equal(attempts, 1);
    return {};
  },
  async anthropicAskedOfGpt() {
    const answer = await anthropic.messages.create({ model: GPT, max_tokens: 60, system: 'Be brief.', messages: user('Say hello to Ada') });
    assert.equal(answer.type, 'message');
    assert.equal(answer.stop_reason, 'end_turn');
    return { usage: addUsage(nothing(), answer.usage.input_tokens, answer.usage.output_tokens) };
  },
  async anthropicStreamOfGpt() {
    const stream = anthropic.messages.stream({ model: GPT, max_tokens: 100, messages: user('Tell me about the sea and the tides') });
    let deltas = 0;
    for await (const event of stream) deltas += event.type === 'content_block_delta';
    const message = await stream.finalMessage();
    assert.ok(deltas > 2, `${deltas} deltas`);
    assert.equal(message.stop_reason, 'end_turn');
    return { usage: addUsage(nothing(), message.usage.input_tokens, message.usage.output_tokens) };
  },
  async anthropicToolsOfGpt() {
    const messages = user(QUESTION);
    const first = await anthropic.messages.stream({ model: GPT, max_tokens: 300, messages, tools: [anthropicTool] }).finalMessage();
    const call = first.content.find((block) => block.type === 'tool_use');
    assert.equal(first.stop_reason, 'tool_use');
    assert.deepEqual(call.input, { city: 'Paris' });
    messages.push({ role: 'assistant', content: first.content },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: '{"sky":"drizzle"}' }] });
    assert.match(await anthropic.messages.stream({ model: GPT, max_tokens: 300, messages, tools: [anthropicTool] }).finalText(), /drizzle/);
    return { toolCalls: 1 };
  },
  async anthropicTruncatedGptRaises() {
    const error = await raised(anthropic.messages.stream({ model: GPT, max_tokens: 100, messages: user('[[sim mode=truncate]] Tell me about the sea') }).finalMessage());
    assert.ok(error instanceof Anthropic.APIError, String(error));
    assert.equal(attempts, 1);
    return {};
  },
  async anthropicCounts() {
    const exact = await anthropic.messages.countTokens({ model: CLAUDE, messages: user('Say hello to Ada') });
    const bound = await anthropic.messages.countTokens({ model: GPT, messages: user('Say hello to Ada') });
    assert.ok(exact.input_tokens > 0 && bound.input_tokens >= exact.input_tokens);
    return { free: true };
  },
  async anthropicPlain() {
    const { data, response } = await anthropic.messages
      .create({ model: CLAUDE, max_tokens: 60, messages: user('Say hello to Ada') }).withResponse();
    assert.equal(data.content[0].type, 'text');
    assert.equal(data.stop_reason, 'end_turn');
    assert.equal(response.headers.get('x-gantry-task'), task.taskId);
    return { usage: addUsage(nothing(), data.usage.input_tokens, data.usage.output_tokens) };
  },
  async anthropicStream() {
    const stream = anthropic.messages.stream({ model: CLAUDE, max_tokens: 100, messages: user('Tell me about the sea and the tides') });
    let deltas = 0;
    for await (const event of stream) deltas += event.type === 'content_block_delta';
    const message = await stream.finalMessage();
    assert.ok(deltas > 2, `${deltas} deltas`);
    assert.equal(message.stop_reason, 'end_turn');
    return { usage: addUsage(nothing(), message.usage.input_tokens, message.usage.output_tokens) };
  },
  async anthropicTools() {
    const messages = user(QUESTION);
    const first = await anthropic.messages.create({ model: CLAUDE, max_tokens: 300, messages, tools: [anthropicTool] });
    const call = first.content.find((block) => block.type === 'tool_use');
    assert.equal(first.stop_reason, 'tool_use');
    assert.deepEqual(call.input, { city: 'Paris' });
    messages.push({ role: 'assistant', content: first.content },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: '{"sky":"drizzle"}' }] });
    const stream = anthropic.messages.stream({ model: CLAUDE, max_tokens: 300, messages, tools: [anthropicTool] });
    assert.match(await stream.finalText(), /drizzle/);
    return { toolCalls: 1 };
  },
  async anthropicToolsStreamed() {
    const stream = anthropic.messages.stream({ model: CLAUDE, max_tokens: 300, messages: user(QUESTION), tools: [anthropicTool] });
    const message = await stream.finalMessage();
    assert.deepEqual(message.content.find((block) => block.type === 'tool_use').input, { city: 'Paris' });
    return { toolCalls: 1 };
  },
  async anthropicBadRequest() {
    const error = await raised(anthropic.messages.create({ model: CLAUDE, max_tokens: 10, messages: 'not a list' }));
    assert.ok(error instanceof Anthropic.BadRequestError, String(error));
    return {};
  },
  async anthropicOverloadIsRetriedByTheGatewayOnly() {
    const error = await raised(anthropic.messages.create({ model: CLAUDE, max_tokens: 10, messages: user('[[sim mode=overload]]') }));
    assert.equal(error.status, 529, String(error));
    assert.equal(error.error.error.type, 'overloaded_error');
    assert.equal(attempts, 1);
    return { failures: 3 };
  },
  async anthropicTruncatedStreamRaises() {
    const error = await raised(anthropic.messages
      .stream({ model: CLAUDE, max_tokens: 100, messages: user('[[sim mode=truncate]] Tell me about the sea') }).finalMessage());
    return { raised: error.constructor.name };
  },
  async anthropicStreamWithoutFinishRaises() {
    const error = await raised((async () => {
      const stream = await anthropic.messages.create({ model: CLAUDE, max_tokens: 100, stream: true, messages: user('[[sim mode=no-finish]] Tell me about the sea') });
      for await (const event of stream) void event;
    })());
    assert.ok(error instanceof Anthropic.APIError, String(error));
    return {};
  },
  async anthropicCapIsNotRetried() {
    const error = await raised((async () => {
      for (;;) await anthropic.messages.create({ model: CLAUDE, max_tokens: 200, messages: user('Tell me about the sea') });
    })());
    assert.equal(error.status, 402, String(error));
    assert.equal(error.error.error.type, 'billing_error');
    return { calls: attempts - 1 };
  },
};

const report = {};
for (const name of task.input.cases ?? Object.keys(cases).filter((c) => !c.includes('CapIs'))) {
  attempts = 0;
  try {
    report[name] = { ok: true, ...await cases[name]() };
  } catch (error) {
    report[name] = { ok: false, error: String(error?.stack ?? error).slice(0, 1500) };
  }
}
console.log(JSON.stringify(report));
