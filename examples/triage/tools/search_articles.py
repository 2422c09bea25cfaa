"""Searches the help articles: arguments as JSON on stdin, the best three as JSON on stdout."""
import json
import math
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def words(text):
    return re.findall(r"[a-z0-9]{3,}", text.lower())


def main():
    query = set(words(json.load(sys.stdin)["query"]))
    with open(os.path.join(HERE, "articles.json"), encoding="utf-8") as f:
        articles = json.load(f)
    texts = [words(a["title"] + " " + a["title"] + " " + a["text"]) for a in articles]
    rarity = {w: math.log(len(texts) / (1 + sum(w in t for t in texts))) + 1 for w in query}
    scores = [sum(rarity[w] * t.count(w) / (1 + len(t) / 80) for w in query) for t in texts]
    best = sorted(range(len(articles)), key=lambda i: -scores[i])[:3]
    json.dump([articles[i] for i in best if scores[i] > 0], sys.stdout)


main()
