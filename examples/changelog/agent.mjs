// Writes release notes from commit messages, with the official `openai` package: one tool call, then a stream.
//
// In:  {"commits": ["area: what it does", ...]}   Out: {"notes": Markdown, "commits": n}
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';

const task = JSON.parse(readFileSync(0, 'utf8'));
const commits = task.input.commits;
if (!Array.isArray(commits)) {
  console.error('the input needs a list `commits`');
  process.exit(1);
}

const client = new OpenAI(); // base URL and key come from the environment that Gantry made
const model = process.env.GANTRY_MODEL;
const tools = [{
  type: 'function',
  function: {
    name: 'group_commits',
    description: 'Sorts the commits of this release by area and returns the groups',
    parameters: {
      type: 'object',
      properties: { order: { type: 'string', enum: ['size', 'name'], description: 'how to sort the areas' } },
      required: ['order'],
    },
  },
}];

function groupCommits({ order }) {
  const groups = {};
  for (const line of commits) {
    const [, area, text] = /^([\w, -]+): (.*)$/.exec(line) ?? [null, 'other', line];
    (groups[area] ??= []).push(text);
  }
  const byName = ([a], [b]) => a.localeCompare(b);
  const bySize = ([, a], [, b]) => b.length - a.length;
  return Object.entries(groups).sort(order === 'name' ? byName : bySize);
}

const messages = [
  { role: 'system', content: readFileSync(process.env.GANTRY_PROMPT_FILE, 'utf8') },
  { role: 'user', content: `Write the release notes for ${commits.length} commits. Group the commits first, in order of size.` },
];

const first = await client.chat.completions.create({ model, messages, tools, max_completion_tokens: 300 });
const choice = first.choices[0].message;
messages.push(choice);
for (const call of choice.tool_calls ?? []) {
  console.error(`tool ${call.function.name} ${call.function.arguments}`);
  messages.push({ role: 'tool', tool_call_id: call.id, content: JSON.stringify(groupCommits(JSON.parse(call.function.arguments))) });
}

let notes = choice.content ?? '';
if (choice.tool_calls?.length) {
  const stream = await client.chat.completions.create({ model, messages, tools, stream: true, max_completion_tokens: 700 });
  for await (const chunk of stream) notes += chunk.choices[0]?.delta?.content ?? '';
}
console.log(JSON.stringify({ notes, commits: commits.length }));
