"""Writes and re-reads a checkpoint folder in the format of Kimi-K2-Thinking: BF16 weights, routed
experts as INT4 "pack-quantized" triplets, two shards with an index."""
import json
import os

import torch
from safetensors.torch import load_file, save_file

from config import model_config
from model import GROUP, DemoModel, int4_codes

NUM_SHARDS = 2
_EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


def pack(codes):
    """[rows, cols] codes in [-8, 7] to int32 words: offset binary, eight to a word, lowest bits first."""
    nibbles = (codes.to(torch.int64) + 8).unflatten(-1, (-1, 8))
    words = (nibbles << (4 * torch.arange(8))).sum(-1)
    return torch.where(words >= 2 ** 31, words - 2 ** 32, words).to(torch.int32)


def unpack(words):
    nibbles = (words.to(torch.int64) & 0xFFFFFFFF).unsqueeze(-1) >> (4 * torch.arange(8))
    return ((nibbles & 15) - 8).flatten(-2)


def checkpoint_tensors(model):
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith("e_score_correction_bias"):
            tensors[name] = value.float().clone()
            continue
        part = name.rsplit(".", 1)[-1]
        if part not in _EXPERT_PARTS:
            tensors[name] = value.bfloat16()
            continue
        for e, weight in enumerate(value):
            base = f"{name[:-len(part)]}experts.{e}.{part}"
            codes, scale = int4_codes(weight)
            tensors[base + ".weight_packed"] = pack(codes.flatten(-2))
            tensors[base + ".weight_scale"] = scale.squeeze(-1).bfloat16()
            tensors[base + ".weight_shape"] = torch.tensor(weight.shape, dtype=torch.int32)
    return tensors


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write(model, tokenizer, folder):
    os.makedirs(folder, exist_ok=True)
    tensors = checkpoint_tensors(model)
    last = model.cfg["num_hidden_layers"] - 1
    shards = [[n for n in tensors if f".layers.{last}." not in n],
              [n for n in tensors if f".layers.{last}." in n]]
    weight_map = {}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{NUM_SHARDS:06d}.safetensors"
        save_file({n: tensors[n].contiguous() for n in names}, os.path.join(folder, file),
                  metadata={"format": "pt"})
        weight_map.update({n: file for n in names})
    write_json(folder, "model.safetensors.index.json", {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": dict(sorted(weight_map.items()))})
    write_json(folder, "config.json", model_config(tokenizer))
    write_json(folder, "generation_config.json", {
        "max_length": model.cfg["max_position_embeddings"], "eos_token_id": tokenizer.im_end})
    tokenizer.save(folder)


def read(folder):
    """The model as committed: INT4 experts multiplied out, BF16 weights, all in FP32."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        cfg = json.load(f)
    with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as f:
        files = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for file in files:
        tensors.update(load_file(os.path.join(folder, file)))
    model, state = DemoModel(cfg), {}
    for name, value in model.state_dict().items():
        part = name.rsplit(".", 1)[-1]
        if part not in _EXPERT_PARTS:
            state[name] = tensors[name].float()
            continue
        stack = []
        for e in range(len(value)):
            base = f"{name[:-len(part)]}experts.{e}.{part}"
            codes = unpack(tensors[base + ".weight_packed"]).unflatten(-1, (-1, GROUP)).float()
            stack.append((codes * tensors[base + ".weight_scale"].float().unsqueeze(-1)).flatten(-2))
        state[name] = torch.stack(stack)
    model.load_state_dict(state)
    return model.eval()
