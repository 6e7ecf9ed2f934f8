#!/usr/bin/env python3
"""Plays the demo model's dialogues through HTTP: greedy word for word, and at temperature 1.0.

    play_dialogues.py TANDEM [--plays 5] [--dialogues FILE] [--model DIR]

A dialogue holds `messages` with the assistant's expected answers among them. Every one of these is
asked for with what stands before it; a play is right when all its answers are. The greedy plays must
all be right; of the sampled ones at least 99 in 100.
"""
import argparse
import concurrent.futures
import json
import sys

from tandem_process import DIALOGUES, SKIPPED, TandemServer, demo_model_is_here

SAMPLED_SHARE_WANTED = 0.99


def turns(dialogue):
    """(messages so far, expected answer) of every answer in the dialogue."""
    messages = dialogue["messages"]
    found = [(messages[:i], message) for i, message in enumerate(messages) if message["role"] == "assistant"]
    if dialogue.get("expected"):
        found.append((messages, dialogue["expected"]))
    assert found, f"{dialogue['name']}: nothing is expected of the assistant"
    return found


def calls_of(message):
    return [(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or []]


def essence(message):
    """What two answers are compared by."""
    reasoning = message.get("reasoning_content", message.get("reasoning"))
    return {"reasoning": reasoning or "", "content": message.get("content") or "",
            "tool_calls": calls_of(message)}


def ask(server, messages, tools, **sampling):
    body = {"messages": messages, "max_tokens": 400, **sampling}
    if tools:
        body["tools"] = tools
    choice = server.chat(**body)["choices"][0]
    wanted_reason = "tool_calls" if choice["message"].get("tool_calls") else "stop"
    assert choice["finish_reason"] == wanted_reason, f"finish_reason {choice['finish_reason']}"
    return essence(choice["message"])


def play(server, dialogue, **sampling):
    """None when every answer is the expected one, else the first difference."""
    for messages, expected in turns(dialogue):
        wanted = essence(expected)
        try:
            got = ask(server, messages, dialogue.get("tools"), **sampling)
        except AssertionError as error:
            return str(error)
        if got != wanted:
            return f"after {messages[-1].get('content')!r}\n    expected {wanted}\n    got      {got}"
    return None


def play_greedy(server, dialogues):
    wrong = 0
    for dialogue in dialogues:
        difference = play(server, dialogue, temperature=0)
        if difference:
            wrong += 1
            print(f"WRONG {dialogue['name']}: {difference}")
    print(f"greedy: {len(dialogues) - wrong} of {len(dialogues)} dialogues right")
    return wrong == 0


def play_sampled(server, dialogues, num_plays):
    jobs = [(dialogue, seed) for seed in range(num_plays) for dialogue in dialogues]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: play(server, job[0], temperature=1.0, seed=job[1]), jobs))
    wrong = [(job, difference) for job, difference in zip(jobs, found) if difference]
    for (dialogue, seed), difference in wrong[:10]:
        print(f"wrong {dialogue['name']}, seed {seed}: {difference}")
    share = 1 - len(wrong) / len(jobs)
    print(f"temperature 1.0: {len(jobs) - len(wrong)} of {len(jobs)} plays right, {100 * share:.2f} %; "
          f"wanted {100 * SAMPLED_SHARE_WANTED:.0f} %")
    return share >= SAMPLED_SHARE_WANTED


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tandem")
    parser.add_argument("--plays", type=int, default=5, help="sampled plays of each dialogue, 0 for none")
    parser.add_argument("--dialogues", default=DIALOGUES)
    parser.add_argument("--model", help="checkpoint folder, the demo model unless given")
    args = parser.parse_args()
    if not args.model and not demo_model_is_here():
        print("SKIP: no demo model in server/demo/model")
        return SKIPPED
    with open(args.dialogues, encoding="utf-8") as file:
        dialogues = json.load(file)
    if isinstance(dialogues, dict):
        dialogues = dialogues["dialogues"]
    with TandemServer(args.tandem, *(["--model", args.model] if args.model else [])) as server:
        good = play_greedy(server, dialogues)
        if args.plays > 0:
            good = play_sampled(server, dialogues, args.plays) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
