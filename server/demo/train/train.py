#!/usr/bin/env python3
"""Trains the demo model and exports it to ../model: see README.md for the command and the figures.

Three stages, one run:
  1 short   repeated random strings and short dialogues, until copying works
  2 full    all dialogues at full length, high learning rate
  3 settle  the learning rate falls to zero; the routed experts see their INT4 values
"""
import argparse
import collections
import os
import random
import time

import torch
import torch.nn.functional as F

import export
import optimizer
from config import model_config
from data.evaluation import trained_set, unseen_city_set, unseen_question_set
from data.mixture import Mixture, copy_sequence
from data.names import WEATHER, Names
from model import DemoModel
from start import start_copying_heads
from play import encode_dialogue, expected_logits, greedy_right, pad_rows, probability
from chat import to_segments
from tokenizer import Tokenizer, train_ranks

Stage = collections.namedtuple("Stage", "name steps tokens other_weight quantise fixed_share")
STAGES = [Stage("short", 120, 1536, 0.1, False, 0.0), Stage("full", 800, 2560, 0.1, False, 0.14),
          Stage("settle", 700, 2560, 0.0, True, 0.28)]
WARM_UP = 40
MUON_LR, ADAM_LR = 0.006, 2e-3
BIAS_STEP = 0.001           # of the routers' balancing bias
POOL = 192                  # dialogues sorted by length at a time, so that little is padded


class PlaceholderNames(Names):
    """Every name is "X": the vocabulary is trained on text without names."""

    def word(self):
        return "X"

    made_up = city = person = word

    def weather(self):
        return self.rng.choice(WEATHER)


def build_tokenizer(seed):
    rng = random.Random(seed)
    mixture = Mixture(rng, PlaceholderNames(rng, ["a"]))
    dialogues = [mixture.full() for _ in range(4000)]
    return Tokenizer(train_ranks(text for d in dialogues for text, _ in to_segments(d)))


def name_fragments(tokenizer):
    return [t.decode() for t in tokenizer.tokens[256:] if t.isalpha() and len(t) <= 4]


class Batches:
    """Endless batches of rows of like length: (ids, weights of the loss)."""

    def __init__(self, tokenizer, rng):
        self.tokenizer, self.rng = tokenizer, rng
        self.mixture = Mixture(rng, Names(rng, name_fragments(tokenizer)))

    def row(self, stage):
        if stage.name == "short" and self.rng.random() < 0.5:
            return copy_sequence(self.rng, self.tokenizer.base)
        dialogue = self.mixture.short() if stage.name == "short" else self.mixture.full(
            stage.fixed_share)
        ids, target = encode_dialogue(self.tokenizer, dialogue)
        return ids, [1.0 if t else stage.other_weight for t in target]

    def of(self, stage):
        while True:
            rows = sorted((self.row(stage) for _ in range(POOL)), key=lambda r: len(r[0]))
            batches, part = [], []
            for row in rows:
                if part and (len(part) + 1) * len(row[0]) > stage.tokens:
                    batches.append(part)
                    part = []
                part.append(row)
            self.rng.shuffle(batches)           # the rest is dropped: it is seldom a full batch
            for part in batches:
                yield (pad_rows([r[0] for r in part], self.tokenizer.pad),
                       pad_rows([r[1] for r in part], 0.0))


def learning_rate(step):
    """Share of the highest rate: warm-up, level, then linear to zero over the last stage."""
    settle = STAGES[-1].steps
    left = sum(s.steps for s in STAGES) - step
    return min(1.0, (step + 1) / WARM_UP, left / settle)


def has_bf16_products():
    """Without the instructions PyTorch's BF16 products are 40 times slower than FP32."""
    with open("/proc/cpuinfo", encoding="ascii") as f:
        flags = f.read()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def loss_of(model, ids, weights, use_bf16):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bf16):
        logits = model(ids[:, :-1])
    nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    is_target = w == 1.0
    return (nll * w).sum() / is_target.sum(), float(nll[is_target].mean().detach())


def balance(model, rate):
    for layer in model.moe_layers():
        layer.gate.e_score_correction_bias += rate * torch.sign(layer.load.mean() - layer.load)


def report(model, tokenizer, log):
    """Trained dialogues, unseen cities, unseen questions: greedy and exact T = 1.0."""
    for name, dialogues in (("trained", trained_set()), ("cities", unseen_city_set()),
                            ("questions", unseen_question_set())):
        scored = expected_logits(model, tokenizer, dialogues)
        greedy = [greedy_right(*s) for s in scored]
        p = [probability(*s) for s in scored]
        wrong = [d["name"] for d, ok in zip(dialogues, greedy) if not ok]
        log(f"  {name}: greedy {sum(greedy)}/{len(greedy)}, T=1 {sum(p) / len(p):.4f} "
            f"(least {min(p):.3f}); wrong: {' '.join(wrong[:8])}")


def train(model, tokenizer, rng, folder, log):
    optimizers = optimizer.build(model, MUON_LR, ADAM_LR)
    batches = Batches(tokenizer, rng)
    step, start, mean, use_bf16 = 0, time.time(), None, has_bf16_products()
    for stage in STAGES:
        source = batches.of(stage)
        for layer in model.moe_layers():
            layer.quantise = stage.quantise
        for i in range(stage.steps):
            share = learning_rate(step)
            loss, target_loss = loss_of(model, *next(source), use_bf16)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt, rate in optimizers:
                for group in opt.param_groups:
                    group["lr"] = rate * share
                opt.step()
                opt.zero_grad(set_to_none=True)
            balance(model, BIAS_STEP * share)
            mean = target_loss if mean is None else 0.95 * mean + 0.05 * target_loss
            step += 1
            if step % 25 == 0:
                log(f"{stage.name} step {step} lr {share:.3f} loss {mean:.4f} {time.time() - start:.0f} s")
            if step % 120 == 0 or i + 1 == stage.steps:
                report(model, tokenizer, log)
            if stage.name != "short" and step % 200 == 0:
                export.write(model, tokenizer, folder)
    log(f"trained in {time.time() - start:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--out", default=os.path.join(here, "..", "model"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(args.seed)
    model = DemoModel(model_config(tokenizer))
    start_copying_heads(model)

    def log(line):
        print(line, flush=True)

    log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, "
        f"vocabulary {tokenizer.vocab_size}")
    train(model, tokenizer, random.Random(args.seed), args.out, log)
    export.write(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
