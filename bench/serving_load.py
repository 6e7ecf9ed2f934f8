#!/usr/bin/env python3
"""Streams chat requests at several rates against a running server and prints one row a rate.

    serving_load.py [--url http://127.0.0.1:8000] [--rates 1,4,16,64] [--seconds 10] [--prompt-words 100]
                    [--tokens 64] [--json]

Arrivals are Poisson, every request has a prompt of its own, and `ignore_eos` holds each answer to its length. TTFT is the
time to the first piece of reasoning or content, ITL the time between two pieces, E2E to [DONE]. Python's standard
library only; beyond some thousand tokens a second it is this script that is measured.
"""
import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.parse


class Outcome:
    def __init__(self):
        self.begin = time.perf_counter()
        self.pieces = []  # times of reasoning and content
        self.end = None
        self.tokens = 0
        self.failure = None


def request_bytes(host, options, rng):
    words = " ".join(rng.choice(("red", "green", "blue", "one", "two", "three")) for _ in range(options.prompt_words))
    body = json.dumps({"messages": [{"role": "user", "content": f"{rng.getrandbits(64):x} {words}"}], "stream": True,
                       "stream_options": {"include_usage": True}, "max_tokens": options.tokens,
                       "ignore_eos": True}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


async def ask(url, options, rng):
    outcome = Outcome()
    try:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(request_bytes(url.hostname, options, rng))
        status = (await reader.readline()).split()[1]
        if status != b"200":
            raise ConnectionError(f"status {status.decode()}")
        async for line in reader:  # chunk sizes and blank lines are skipped with all that is no data
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]\n":
                outcome.end = time.perf_counter()
                break
            event = json.loads(line[6:])
            if event.get("usage"):
                outcome.tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                if choice["delta"].get("content") or choice["delta"].get("reasoning_content"):
                    outcome.pieces.append(time.perf_counter())
        writer.close()
    except (OSError, ValueError, IndexError, KeyError) as error:
        outcome.failure = repr(error)
    if outcome.failure is None and (outcome.end is None or not outcome.pieces):
        outcome.failure = "the stream ended early"
    return outcome


async def run_rate(url, rate, options):
    rng = random.Random(rate)
    tasks, begin = [], time.perf_counter()
    due = begin
    while due - begin < options.seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(url, options, rng)))
        due += rng.expovariate(rate)
    outcomes = await asyncio.gather(*tasks)
    return row_of(rate, outcomes, time.perf_counter() - begin)


def quantiles_ms(seconds):
    if len(seconds) < 2:
        return [1000 * seconds[0]] * 3 if seconds else [0.0] * 3
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [1000 * cuts[49], 1000 * cuts[89], 1000 * cuts[98]]


def row_of(rate, outcomes, elapsed_s):
    good = [outcome for outcome in outcomes if outcome.failure is None]
    for failure in sorted({outcome.failure for outcome in outcomes if outcome.failure}):
        print(f"failed: {failure}", file=sys.stderr)
    gaps = [later - earlier for outcome in good for earlier, later in zip(outcome.pieces, outcome.pieces[1:])]
    return {"rate": rate, "requests": len(outcomes), "failed": len(outcomes) - len(good),
            "ttft_ms": quantiles_ms([outcome.pieces[0] - outcome.begin for outcome in good]),
            "itl_ms": quantiles_ms(gaps), "e2e_ms": quantiles_ms([outcome.end - outcome.begin for outcome in good]),
            "requests_per_s": len(good) / elapsed_s,
            "tokens_per_s": sum(outcome.tokens for outcome in good) / elapsed_s}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rates", default="1,4,16,64", help="requests a second, comma-separated")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--prompt-words", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    url = urllib.parse.urlsplit(options.url)
    rows = [asyncio.run(run_rate(url, float(rate), options)) for rate in options.rates.split(",")]
    status = 1 if any(row["failed"] for row in rows) else 0
    if options.json:
        print(json.dumps(rows, indent=1))
        return status
    print("| offered req/s | requests | failed | TTFT p50 / p90 / p99 ms | ITL p50 / p90 / p99 ms | E2E p50 / p90 / p99 ms "
          "| req/s | tokens/s |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        spans = [" / ".join(f"{value:.1f}" for value in row[key]) for key in ("ttft_ms", "itl_ms", "e2e_ms")]
        print(f"| {row['rate']:g} | {row['requests']} | {row['failed']} | {' | '.join(spans)} "
              f"| {row['requests_per_s']:.1f} | {row['tokens_per_s']:.0f} |")
    return status


if __name__ == "__main__":
    sys.exit(main())
