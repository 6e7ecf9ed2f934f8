#!/usr/bin/env python3
"""Plays the demo model's dialogues through HTTP.

    play_dialogues.py TANDEM [--plays 10] [--dialogues FILE] [--model DIR]

An entry of the file is one request and the answer expected of it; `NAME/0`, `NAME/1`... are the steps
of one dialogue, and a play is right when all its steps are, word for word. Wanted are

    trained dialogues      all right when greedy, 99 in 100 at temperature 1.0
    cities never trained   9 in 10 right when greedy (server/demo/train/data lists them)

Seeds are fixed and logits do not depend on what else runs, so a checkpoint always gets the same marks.
"""
import argparse
import concurrent.futures
import json
import os
import sys

from tandem_process import DIALOGUES, SKIPPED, SOURCE_DIR, TandemServer, demo_model_is_here

SAMPLED_SHARE_WANTED = 0.99
UNSEEN_SHARE_WANTED = 0.9
OTHERS = ("city_", "unseen_", "question_")  # names of what is not in the fixed trained list
NUM_CLIENTS = 8


def read_dialogues(path):
    """{name: [step]}, steps in their order."""
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    dialogues = {}
    for entry in entries:
        dialogues.setdefault(entry["name"].rpartition("/")[0], []).append(entry)
    return dialogues


def unseen_cities():
    """The dialogues about cities that the training never saw, in the same form."""
    sys.path.insert(0, os.path.join(SOURCE_DIR, "server/demo/train"))
    sys.dont_write_bytecode = True
    from data.evaluation import unseen_city_set
    dialogues = {}
    for dialogue in unseen_city_set():
        messages = dialogue["messages"]
        dialogues[dialogue["name"]] = [
            {"messages": messages[:i], "tools": dialogue["tools"], "expected": essence(message)}
            for i, message in enumerate(messages) if message["role"] == "assistant"]
    return dialogues


def essence(message):
    """What an answer is judged by."""
    return {"reasoning": message.get("reasoning_content") or "", "content": message.get("content") or "",
            "tool_calls": [{"id": call["id"], "name": call["function"]["name"],
                            "arguments": call["function"]["arguments"]}
                           for call in message.get("tool_calls") or []]}


def play_step(server, step, sampling):
    """None when the answer is the expected one, else the difference."""
    body = {"messages": step["messages"], "max_tokens": 400, **sampling}
    if step["tools"]:
        body["tools"] = step["tools"]
    choice = server.chat(**body)["choices"][0]
    got, expected = essence(choice["message"]), step["expected"]
    if got != expected:
        return f"expected {json.dumps(expected)}\n    got      {json.dumps(got)}"
    wanted_reason = "tool_calls" if expected["tool_calls"] else "stop"
    if choice["finish_reason"] != wanted_reason:
        return f"finish_reason {choice['finish_reason']}, expected {wanted_reason}"
    return None


def play(server, steps, sampling):
    return next(filter(None, (play_step(server, step, sampling) for step in steps)), None)


def judge(server, what, jobs, share_wanted):
    """Plays every (name, steps, sampling) and says whether the share of right ones suffices."""
    with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as pool:
        differences = list(pool.map(lambda job: play(server, job[1], job[2]), jobs))
    wrong = [(name, sampling, difference)
             for (name, _, sampling), difference in zip(jobs, differences) if difference]
    share = 1 - len(wrong) / len(jobs)
    good = share >= share_wanted
    for name, sampling, difference in wrong[:10]:
        print(f"  wrong: {name} {json.dumps(sampling)}\n    {difference}")
    print(f"{'PASS' if good else 'FAIL'} {what}: {len(jobs) - len(wrong)} of {len(jobs)} right, "
          f"{100 * share:.2f} % (wanted {100 * share_wanted:.0f} %)", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tandem")
    parser.add_argument("--plays", type=int, default=10, help="sampled plays of each, 0 for none")
    parser.add_argument("--dialogues", default=DIALOGUES)
    parser.add_argument("--model", help="checkpoint folder, the demo model unless given")
    args = parser.parse_args()
    if not args.model and not demo_model_is_here():
        print("SKIP: no demo model in server/demo/model")
        return SKIPPED
    dialogues = read_dialogues(args.dialogues)
    trained = {name: steps for name, steps in dialogues.items() if not name.startswith(OTHERS)}
    others = {name: steps for name, steps in dialogues.items() if name.startswith(OTHERS)}
    greedy = {"temperature": 0}
    with TandemServer(args.tandem, *(["--model", args.model] if args.model else [])) as server:
        marks = [
            judge(server, "trained dialogues, greedy",
                  [(name, steps, greedy) for name, steps in trained.items()], 1),
            judge(server, "other dialogues of the file, greedy",
                  [(name, steps, greedy) for name, steps in others.items()], UNSEEN_SHARE_WANTED),
            judge(server, "cities never trained, greedy",
                  [(name, steps, greedy) for name, steps in unseen_cities().items()],
                  UNSEEN_SHARE_WANTED)]
        if args.plays > 0:
            marks.append(judge(server, "trained dialogues, temperature 1.0",
                               [(name, steps, {"temperature": 1.0, "seed": seed})
                                for seed in range(args.plays) for name, steps in trained.items()],
                               SAMPLED_SHARE_WANTED))
    return 0 if all(marks) else 1


if __name__ == "__main__":
    sys.exit(main())
