// Frameworks of agents, unmodified: the Vercel ai package, LangChain and the OpenAI Agents SDK, each answered by a model of
// either API. Exports run(input): {"cases": [...]} to {"name": {"ok": true, ...} | {"ok": false, "error": "..."}}.
import assert from 'node:assert/strict';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { HumanMessage, ToolMessage } from '@langchain/core/messages';
import { tool as langchainTool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { Agent, run as runAgent, setTracingDisabled, tool as agentTool } from '@openai/agents';
import { Output, generateText, stepCountIs, streamText, tool as aiTool } from 'ai';
import { z } from 'zod';

const GPT = 'gpt-4o-mini-2024-07-18';
const CLAUDE = 'claude-haiku-4-5-20251001';
const QUESTION = 'What is the weather in Paris? Use get_weather.';
const ABOUT = 'Returns the weather of a city';
const CITY = z.object({ city: z.enum(['Paris', 'Oslo']) });
const WEATHER = z.object({ city: z.string(), warm: z.boolean() });
setTracingDisabled(true);

let attempts = 0; // requests that left a framework
const counting = (...args) => { attempts += 1; return plainFetch(...args); };
const plainFetch = globalThis.fetch;
const openai = createOpenAI({ fetch: counting }); // everything else from the environment
const anthropic = createAnthropic({ fetch: counting });

async function raised(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('nothing was raised');
}

const usageOf = (usage) => ({ inputTokens: usage.inputTokens, outputTokens: usage.outputTokens });

async function aiPlain(model) {
  const { text, finishReason, usage } = await generateText({ model, prompt: 'Say hello to Ada' });
  assert.ok(text.length > 0);
  assert.equal(finishReason, 'stop');
  assert.equal(attempts, 1);
  return { usage: usageOf(usage) };
}

async function aiStream(model) {
  const result = streamText({ model, prompt: 'Tell me about the sea and the tides' });
  let pieces = 0;
  for await (const text of result.textStream) pieces += text.length > 0;
  assert.ok(pieces > 2, `${pieces} pieces`);
  assert.equal(await result.finishReason, 'stop');
  return { usage: usageOf(await result.usage) };
}

async function aiTools(model) {
  const asked = [];
  const result = streamText({
    model, prompt: QUESTION, stopWhen: stepCountIs(4),
    tools: { get_weather: aiTool({ description: ABOUT, inputSchema: CITY, execute: async ({ city }) => { asked.push(city); return { city, sky: 'drizzle' }; } }) },
  });
  let text = '';
  for await (const part of result.textStream) text += part;
  assert.deepEqual(asked, ['Paris']);
  assert.match(text, /drizzle/);
  return { toolCalls: 1 };
}

async function aiObject(model) {
  const { output } = await generateText({ model, prompt: 'What is the weather in Paris?', output: Output.object({ schema: WEATHER }) });
  assert.deepEqual(Object.keys(output).sort(), ['city', 'warm']);
  return {};
}

async function aiCut(model) { // what broke off never looks like an answer
  const errors = [];
  const result = streamText({ model, prompt: '[[sim mode=truncate]] Tell me about the sea and the tides', maxRetries: 0, onError: ({ error }) => errors.push(error) });
  const parts = [];
  for await (const part of result.fullStream) parts.push(part.type);
  assert.ok(errors.length > 0 && parts.includes('error'), parts.join());
  assert.notEqual(await Promise.resolve(result.finishReason).catch(() => 'error'), 'stop');
  assert.equal(attempts, 1);
  return {};
}

async function aiCap(model) {
  const error = await raised((async () => {
    for (;;) await generateText({ model, prompt: 'Tell me about the sea', maxOutputTokens: 200 });
  })());
  assert.equal(error.statusCode, 402, String(error));
  assert.equal(error.isRetryable, false);
  return { calls: attempts - 1 };
}

async function aiBad(model) {
  const error = await raised(generateText({ model, prompt: '[[sim mode=fail status=400]] hello' }));
  assert.equal(error.statusCode, 400, String(error));
  assert.equal(attempts, 1);
  return { failures: 1 };
}

async function aiFail(model) { // tries 5xx again whatever x-should-retry says; the gateway bounds what that comes to
  const error = await raised(generateText({ model, prompt: '[[sim mode=fail status=500]] hello' }));
  assert.ok(String(error).length > 5);
  assert.equal(attempts, 3);
  return { failuresMax: 9 };
}

const chat = (model, more = {}) => new ChatOpenAI({ model, configuration: { fetch: counting }, ...more });

async function langchainPlain(model) {
  const answer = await chat(model).invoke([new HumanMessage('Say hello to Ada')]);
  assert.ok(answer.content.length > 0);
  const usage = answer.usage_metadata;
  assert.equal(attempts, 1);
  return { usage: { inputTokens: usage.input_tokens, outputTokens: usage.output_tokens } };
}

async function langchainStream(model) {
  let pieces = 0, whole;
  for await (const chunk of await chat(model, { streamUsage: true }).stream('Tell me about the sea and the tides')) {
    pieces += 1;
    whole = whole ? whole.concat(chunk) : chunk;
  }
  assert.ok(pieces > 2);
  return { usage: { inputTokens: whole.usage_metadata.input_tokens, outputTokens: whole.usage_metadata.output_tokens } };
}

async function langchainTools(model) {
  const weather = langchainTool(async ({ city }) => JSON.stringify({ city, sky: 'drizzle' }), { name: 'get_weather', description: ABOUT, schema: CITY });
  const bound = chat(model).bindTools([weather]);
  const messages = [new HumanMessage(QUESTION)];
  const first = await bound.invoke(messages);
  assert.equal(first.tool_calls.length, 1);
  assert.deepEqual(first.tool_calls[0].args, { city: 'Paris' });
  const result = await weather.invoke(first.tool_calls[0]);
  assert.ok(result instanceof ToolMessage);
  messages.push(first, result);
  assert.match((await bound.invoke(messages)).content, /drizzle/);
  return { toolCalls: 1 };
}

async function langchainObject(model) {
  const found = await chat(model).withStructuredOutput(WEATHER, { method: 'jsonSchema' }).invoke('What is the weather in Paris?');
  assert.deepEqual(Object.keys(found).sort(), ['city', 'warm']);
  return {};
}

async function langchainCut(model) {
  const error = await raised((async () => {
    for await (const chunk of await chat(model, { maxRetries: 0 }).stream('[[sim mode=truncate]] Tell me about the sea and the tides')) void chunk;
  })());
  assert.ok(String(error).length > 5);
  assert.equal(attempts, 1);
  return {};
}

async function langchainCap(model) {
  const error = await raised((async () => {
    for (;;) await chat(model, { maxTokens: 200 }).invoke('Tell me about the sea');
  })());
  assert.equal(error.status, 402, String(error));
  return { calls: attempts - 1 };
}

const weatherTool = (asked) => agentTool({ name: 'get_weather', description: ABOUT, parameters: CITY, execute: async ({ city }) => { asked.push(city); return JSON.stringify({ city, sky: 'drizzle' }); } });

async function agentsPlain(model) {
  const result = await runAgent(new Agent({ name: 'greeter', instructions: 'Be brief.', model }), 'Say hello to Ada');
  assert.ok(result.finalOutput.length > 0);
  return {};
}

async function agentsTools(model) {
  const asked = [];
  const agent = new Agent({ name: 'weather', instructions: 'Use get_weather.', model, tools: [weatherTool(asked)] });
  const result = await runAgent(agent, QUESTION);
  assert.deepEqual(asked, ['Paris']);
  assert.match(result.finalOutput, /drizzle/);
  return { toolCalls: 1 };
}

async function agentsStream(model) {
  const asked = [];
  const agent = new Agent({ name: 'weather', instructions: 'Use get_weather.', model, tools: [weatherTool(asked)] });
  const result = await runAgent(agent, QUESTION, { stream: true });
  let events = 0;
  for await (const event of result) events += event.type === 'raw_model_stream_event';
  await result.completed;
  assert.ok(events > 3, `${events} events`);
  assert.deepEqual(asked, ['Paris']);
  assert.match(result.finalOutput, /drizzle/);
  return { toolCalls: 1 };
}

async function agentsObject(model) {
  const result = await runAgent(new Agent({ name: 'weather', instructions: 'Answer in JSON.', model, outputType: WEATHER }), 'What is the weather in Paris?');
  assert.deepEqual(Object.keys(result.finalOutput).sort(), ['city', 'warm']);
  return {};
}

async function agentsCut(model) {
  const agent = new Agent({ name: 'sea', instructions: 'Be brief.', model });
  const error = await raised((async () => {
    const result = await runAgent(agent, '[[sim mode=truncate]] Tell me about the sea and the tides', { stream: true });
    for await (const event of result) void event;
    await result.completed;
    assert.ok(!result.finalOutput, 'an output of what broke off');
  })());
  assert.ok(!(error instanceof assert.AssertionError) && error.message !== 'nothing was raised', String(error));
  return {};
}

async function agentsCap(model) {
  const agent = new Agent({ name: 'sea', instructions: 'Be brief.', model, modelSettings: { maxTokens: 200 } });
  const error = await raised((async () => { for (;;) await runAgent(agent, 'Tell me about the sea'); })());
  assert.equal(error.status, 402, String(error));
  return {};
}

const kinds = {
  ai: { plain: aiPlain, stream: aiStream, tools: aiTools, object: aiObject, cut: aiCut, cap: aiCap, bad: aiBad, fail: aiFail },
  langchain: { plain: langchainPlain, stream: langchainStream, tools: langchainTools, object: langchainObject, cut: langchainCut, cap: langchainCap },
  agents: { plain: agentsPlain, tools: agentsTools, stream: agentsStream, object: agentsObject, cut: agentsCut, cap: agentsCap },
};
const models = { // how a framework asks for a model
  aiChat: () => openai.chat(GPT), aiResponses: () => openai(GPT), aiAnthropic: () => anthropic(CLAUDE),
  aiChatOfClaude: () => openai.chat(CLAUDE), aiResponsesOfClaude: () => openai(CLAUDE), aiAnthropicOfGpt: () => anthropic(GPT),
  langchain: () => GPT, langchainOfClaude: () => CLAUDE,
  agents: () => GPT, agentsOfClaude: () => CLAUDE,
};

export async function run(input) {
  const report = {};
  for (const name of input.cases) { // "aiChat.tools"
    const [model, kind] = name.split('.');
    attempts = 0;
    try {
      report[name] = { ok: true, ...await kinds[model.match(/^(ai|langchain|agents)/)[0]][kind](models[model]()) };
    } catch (error) {
      report[name] = { ok: false, error: String(error?.stack ?? error).slice(0, 1500) };
    }
  }
  return report;
}
