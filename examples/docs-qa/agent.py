"""Answers questions about Gantry's documentation: finds passages, asks the model, cites. Standard library only.

In:  "a question", or {"question": "..."}
Out: {"answer", "sources": [passage, ...], "model"}
"""
import json
import math
import os
import re
import sys
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
PASSAGES_WANTED = 4
RETRY_LATER = 75  # EX_TEMPFAIL: Gantry tries the task again


def words(text):
    return [w.rstrip("s") for w in re.findall(r"[a-z0-9_]{2,}", text.lower())]


def passages():
    """Sections of the bundled documents as (name, text), one a heading."""
    found = []
    folder = os.path.join(HERE, "docs")
    for name in sorted(os.listdir(folder)):
        heading, lines = "", []
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            for line in list(f) + ["# "]:
                if not line.startswith("#"):
                    lines.append(line)
                    continue
                if "".join(lines).strip():
                    anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
                    found.append((f"{name}#{anchor}" if anchor else name, heading + "\n" + "".join(lines).strip()))
                heading, lines = line.lstrip("# ").strip(), []
    return found


def best(question, found):
    """BM25 over the passages (Robertson & Zaragoza 2009; k1 = 1.2, b = 0.75)."""
    texts = [words(name + " " + text) for name, text in found]
    average = sum(map(len, texts)) / max(len(texts), 1)
    scores = [0.0] * len(found)
    for word in set(words(question)):
        having = sum(word in t for t in texts)
        rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for i, t in enumerate(texts):
            n = t.count(word)
            scores[i] += rarity * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * len(t) / average))
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    return [found[i] for i in order[:PASSAGES_WANTED] if scores[i] > 0]


def ask(prompt, question, chosen):
    context = "\n\n".join(f"[{name}]\n{text[:2000]}" for name, text in chosen)
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({
            "model": os.environ["GANTRY_MODEL"],
            "temperature": 0.1,
            "max_completion_tokens": 400,
            "messages": [{"role": "system", "content": prompt},
                         {"role": "user", "content": f"{question}\n\n{context}"}],
        }).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main():
    task = json.load(sys.stdin)
    question = task["input"]["question"] if isinstance(task["input"], dict) else str(task["input"])
    with open(os.environ["GANTRY_PROMPT_FILE"], encoding="utf-8") as f:
        prompt = f.read()
    chosen = best(question, passages())
    print(f"{len(chosen)} passages: {', '.join(name for name, _ in chosen)}", file=sys.stderr)
    try:
        answer = ask(prompt, question, chosen)
    except urllib.error.HTTPError as error:
        print(f"the model answered {error.code}: {error.read(500).decode(errors='replace')}", file=sys.stderr)
        sys.exit(RETRY_LATER if error.code == 429 or error.code >= 500 else 1)
    json.dump({"answer": answer["choices"][0]["message"]["content"],
               "sources": [name for name, _ in chosen], "model": answer["model"]}, sys.stdout)


main()
