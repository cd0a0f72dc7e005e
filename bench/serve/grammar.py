"""What grammars cost: one client's answers by a grammar beside free ones, in turns, from a server that runs.

    puna serve ./model.gguf --no-speculation
    python3 bench/serve/grammar.py http://127.0.0.1:8080 --turns 10

Needs Python alone. Each answer has the same number of tokens, picked greedily; who begins changes from turn to turn. What
counts is the ratio of a turn: tokens a second between the first piece and the last. Prints the median of the turns' ratios
with the least and the greatest, and the time to the first piece, which compiling the grammar is part of.
"""

import argparse
import json
import statistics
import time
import urllib.request

# Neither can end before the tokens do.
SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "minLength": 4000}}, "required": ["text"],
          "additionalProperties": False}
KINDS = {
    "free": {},
    "regex": {"structured_outputs": {"regex": "([a-z]+ ){1000}"}},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "text", "schema": SCHEMA}}},
}


def ask(url, n_tokens, kind):
    """Seconds to the first piece, and tokens a second behind it."""
    body = {
        "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": n_tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, **KINDS[kind],
    }
    if kind == "free":
        body["ignore_eos"] = True
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    begin, first, last, n = time.monotonic(), None, None, 0
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            line = line.decode().strip().removeprefix("data: ")
            if not line or line == "[DONE]":
                continue
            event = json.loads(line)
            if "error" in event:
                raise SystemExit(f"{kind}: {event['error']}")
            if event.get("usage"):
                n = event["usage"]["completion_tokens"]
            if any(choice["delta"].get("content") for choice in event["choices"]):
                last = time.monotonic()
                first = first or last
    if n != n_tokens:
        raise SystemExit(f"{kind}: expected {n_tokens} tokens, found {n}")
    return first - begin, (n - 1) / (last - first)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    order = list(KINDS)
    for kind in order:
        ask(args.url, args.tokens, kind)
    turns = []
    for turn in range(args.turns):
        turns.append({kind: ask(args.url, args.tokens, kind) for kind in (order if turn % 2 == 0 else order[::-1])})
    for kind in order:
        first = statistics.median(turn[kind][0] for turn in turns)
        speed = statistics.median(turn[kind][1] for turn in turns)
        ratios = sorted(turn[kind][1] / turn["free"][1] for turn in turns)
        print(f"{kind:8} {speed:6.1f} tokens/s, first piece after {first:.2f} s, × free "
              f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
