/* init: a new agent directory that runs as it is. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/diag.h"
#include "base/str.h"
#include "cli/file.h"
#include "cli/verbs.h"

#define PATH_BYTES_MAX 4096

typedef struct {
    const char *path, *text;
    unsigned mode;
} Template;

static const char builtin_yaml[] =
    "apiVersion: gantry/v1\n"
    "kind: Agent\n"
    "metadata: {name: %s}\n"
    "spec:\n"
    "  runtime: builtin                 # Gantry's own loop: prompt, model, tools\n"
    "  prompt: prompts/system.md\n"
    "  tools: tools.json\n"
    "  model: gpt-4o-mini-2024-07-18    # simulated by `gantry dev` until a key is set\n"
    "  sampling: {temperature: 0.2, maxOutputTokens: 512}\n"
    "  limits: {tokensPerTask: 50000, toolCallsPerTask: 10, secondsPerTask: 60, usdPerTask: \"0.05\"}\n"
    "  retry: {maxAttempts: 3, backoff: {initial: 1s, factor: 2, max: 1m}}\n";

static const char process_yaml[] =
    "apiVersion: gantry/v1\n"
    "kind: Agent\n"
    "metadata: {name: %s}\n"
    "spec:\n"
    "  runtime: process                 # one process a task: JSON on stdin, the result on stdout\n"
    "  command: [python3, agent.py]\n"
    "  code: .\n"
    "  prompt: prompts/system.md\n"
    "  model: gpt-4o-mini-2024-07-18    # simulated by `gantry dev` until a key is set\n"
    "  sampling: {temperature: 0.2, maxOutputTokens: 512}\n"
    "  limits: {tokensPerTask: 50000, toolCallsPerTask: 10, secondsPerTask: 60, usdPerTask: \"0.05\"}\n"
    "  retry: {maxAttempts: 3, backoff: {initial: 1s, factor: 2, max: 1m}}\n";

static const char prompt_text[] =
    "You are a helpful assistant. Answer in one or two sentences. When the question is about words or\n"
    "the length of a text, use the tools you are given and base the answer on what they return.\n";

static const char tools_text[] =
    "[\n"
    "  {\n"
    "    \"name\": \"count_words\",\n"
    "    \"description\": \"Counts the words of a text\",\n"
    "    \"inputSchema\": {\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}, \"required\": [\"text\"]},\n"
    "    \"effect\": \"read\",\n"
    "    \"source\": {\"command\": [\"sh\", \"-c\", \"wc -w\"]}\n"
    "  }\n"
    "]\n";

static const char agent_py[] =
    "\"\"\"An agent: reads the task, asks the model once, prints the result. Standard library only.\"\"\"\n"
    "import json, os, sys, urllib.request\n"
    "\n"
    "task = json.load(sys.stdin)\n"
    "prompt = open(os.environ[\"GANTRY_PROMPT_FILE\"], encoding=\"utf-8\").read()\n"
    "question = task[\"input\"] if isinstance(task[\"input\"], str) else json.dumps(task[\"input\"])\n"
    "request = urllib.request.Request(\n"
    "    os.environ[\"OPENAI_BASE_URL\"] + \"/chat/completions\",\n"
    "    json.dumps({\n"
    "        \"model\": os.environ[\"GANTRY_MODEL\"],\n"
    "        \"messages\": [{\"role\": \"system\", \"content\": prompt}, {\"role\": \"user\", \"content\": question}],\n"
    "        \"max_completion_tokens\": 256,\n"
    "    }).encode(),\n"
    "    {\"Content-Type\": \"application/json\", \"Authorization\": \"Bearer \" + os.environ[\"OPENAI_API_KEY\"]})\n"
    "print(\"asking\", os.environ[\"GANTRY_MODEL\"], file=sys.stderr)  # the task's log\n"
    "with urllib.request.urlopen(request) as response:\n"
    "    answer = json.load(response)[\"choices\"][0][\"message\"][\"content\"]\n"
    "print(json.dumps({\"answer\": answer}))\n";

static int make_dir(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return 0;
    return diag_set(-errno, "cannot make %s: %s", path, strerror(errno));
}

static int put(const char *dir, const char *name, const char *text)
{
    char path[PATH_BYTES_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_write(path, str_of(text), 0666, false);
}

/* The last part of the path as an agent's name: lower case, digits and dashes. */
static void name_from(const char *dir, char out[64])
{
    char real[PATH_BYTES_MAX];
    const char *path = realpath(dir, real) ? real : dir;
    const char *slash = strrchr(path, '/');
    const char *base = slash && slash[1] ? slash + 1 : path;
    size_t n = 0;
    for (; *base && n < 62; base++) {
        char c = *base >= 'A' && *base <= 'Z' ? (char)(*base - 'A' + 'a') : *base;
        bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (ok) out[n++] = c;
        else if (n && out[n - 1] != '-') out[n++] = '-';
    }
    while (n && out[n - 1] == '-') n--;
    out[n] = '\0';
    if (n == 0) str_copy(out, 64, STR("agent"));
}

static int write_agent(const char *dir, bool process, char name[64])
{
    char manifest[2048], sub[PATH_BYTES_MAX];
    snprintf(sub, sizeof sub, "%s/prompts", dir);
    int r = make_dir(dir);
    if (r < 0) return r;
    name_from(dir, name);
    if (process) snprintf(manifest, sizeof manifest, process_yaml, name);
    else snprintf(manifest, sizeof manifest, builtin_yaml, name);
    if ((r = put(dir, "agent.yaml", manifest)) < 0)
        return r; /* first: an agent that is there stays */
    if ((r = make_dir(sub)) < 0) return r;
    if ((r = put(dir, "prompts/system.md", prompt_text)) < 0) return r;
    return process ? put(dir, "agent.py", agent_py) : put(dir, "tools.json", tools_text);
}

int init_run(const Invocation *in)
{
    const char *dir = in->args_n ? in->args[0] : ".";
    const char *runtime = flag(in, "runtime") ? flag(in, "runtime") : "builtin";
    bool process = strcmp(runtime, "process") == 0;
    if (!process && strcmp(runtime, "builtin") != 0)
        return fail(EXIT_USAGE, "--runtime must be builtin or process, not `%s`", runtime);
    if (strlen(dir) > PATH_BYTES_MAX - 64) return fail(EXIT_USAGE, "the path is too long");
    char name[64];
    int r = write_agent(dir, process, name);
    if (r == -EEXIST)
        return fail(EXIT_CONFLICT, "%s: an agent is there already; name another directory",
                    diag_text());
    if (r < 0) return fail(EXIT_FAILED, "%s", diag_text());
    printf("An agent is in %s. Next:\n  gantry dev %s\n  gantry run %s \"%s\"\n",
           strcmp(dir, ".") == 0 ? "this directory" : dir, dir, name,
           process ? "Why is the sky blue?" : "How many words has the text: one two three");
    return EXIT_OK;
}
