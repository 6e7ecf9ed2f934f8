#!/usr/bin/env python3
"""Judges the exported checkpoint, re-read from its folder: INT4 experts multiplied out, BF16 weights,
FP32 arithmetic. Writes ../model/evaluation.json and ../dialogues.json. See play.py for how a play is
judged: every token has to be the expected one."""
import argparse
import json
import os

import torch

import export
from data.evaluation import (trained_city_set, trained_set, unseen_city_set, unseen_other_set,
                             unseen_question_set)
from play import expected_logits, greedy_right, plays_right, probability
from chat import target_indices
from tokenizer import Tokenizer

SETS = [("trained dialogues", trained_set), ("trained cities, other questions", trained_city_set),
        ("unseen cities", unseen_city_set), ("unseen names, parallel and chain", unseen_other_set),
        ("unseen questions", unseen_question_set)]
SAVED_UNSEEN = 8


def judge(model, tokenizer, dialogues, plays, generator):
    rows = []
    for dialogue, scored in zip(dialogues, expected_logits(model, tokenizer, dialogues)):
        top = torch.topk(scored[0], 2, -1)[0]
        rows.append({"name": dialogue["name"], "tokens": len(scored[1]), "greedy": greedy_right(*scored),
                     "right_plays": plays_right(*scored, plays, generator),
                     "probability": round(probability(*scored), 4),
                     "least_logit_margin": round(float((top[:, 0] - top[:, 1]).min()), 2)})
    return rows


def summary(rows, plays):
    played = len(rows) * plays
    right = sum(r["right_plays"] for r in rows)
    return {"dialogues": len(rows), "greedy_right": sum(r["greedy"] for r in rows), "plays_at_t1": played,
            "right_at_t1": right, "share_at_t1": round(right / played, 4),
            "least_share_at_t1": min(r["right_plays"] for r in rows) / plays,
            "wrong_greedy": [r["name"] for r in rows if not r["greedy"]]}


def to_client(message):
    """A message as a client would send it back."""
    return {k: v for k, v in message.items() if v != "" or k == "content"}


def steps(dialogue):
    """One entry for every request that a client sends in playing the dialogue."""
    messages = dialogue["messages"]
    for number, i in enumerate(target_indices(messages)):
        expected = messages[i]
        yield {"name": f"{dialogue['name']}/{number}", "tools": dialogue["tools"],
               "messages": [to_client(m) for m in messages[:i]],
               "expected": {"reasoning": expected["reasoning_content"], "content": expected["content"],
                            "tool_calls": [{"id": c["id"], "name": c["function"]["name"],
                                            "arguments": c["function"]["arguments"]}
                                           for c in expected.get("tool_calls") or []]}}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--model", default=os.path.join(here, "..", "model"))
    parser.add_argument("--dialogues", default=os.path.join(here, "..", "dialogues.json"))
    parser.add_argument("--plays", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = export.read(args.model), Tokenizer.load(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    out, saved = {"plays_of_each_dialogue": args.plays, "sets": {}, "dialogues": {}}, []
    for name, make in SETS:
        dialogues = make()
        rows = judge(model, tokenizer, dialogues, args.plays, generator)
        out["sets"][name] = summary(rows, args.plays)
        out["dialogues"][name] = rows
        print(f"{name}: {json.dumps(out['sets'][name])}")
        greedy = {r["name"] for r in rows if r["greedy"]}
        right = [d for d in dialogues if d["name"] in greedy]
        saved += right if name.startswith("trained") else right[:SAVED_UNSEEN]
    write_json(os.path.join(args.model, "evaluation.json"), out)
    write_json(args.dialogues, [step for dialogue in saved for step in steps(dialogue)])


if __name__ == "__main__":
    main()
