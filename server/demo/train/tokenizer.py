"""The demo vocabulary: a small byte-level BPE in the file format of Kimi's tiktoken.model.

The split pattern, the merge rule and the special tokens are those of the real tokenizer; only the
ranks differ. No merge holds an upper-case letter, a digit or a non-ASCII byte, so that a name falls
into the same small pieces wherever it stands: after a space, a quote or a bracket. That makes
copying it a matter of repeating tokens.
"""
import base64
import collections
import json
import os

import regex

NUM_RANKS = 608
NUM_SPECIALS = 32

PATTERN = "|".join([
    r"""[\p{Han}]+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""",
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*""",
    r"""\s*[\r\n]+""",
    r"""\s+(?!\S)""",
    r"""\s+""",
])
SPLIT = regex.compile(PATTERN, regex.V1)

# The 256 single bytes in the order of the real file: printable ones first, as in GPT-2.
BYTE_ORDER = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]

# Offset in the special block -> (text, HF's "special" flag); the other ids are reserved tokens.
NAMED_SPECIALS = {
    0: ("[BOS]", True), 1: ("[EOS]", True), 2: ("<|im_end|>", True), 3: ("<|im_user|>", True),
    4: ("<|im_assistant|>", True), 6: ("<|start_header_id|>", True), 7: ("<|end_header_id|>", True),
    9: ("[EOT]", True), 10: ("<|im_system|>", True), 11: ("<|tool_calls_section_begin|>", False),
    12: ("<|tool_calls_section_end|>", False), 13: ("<|tool_call_begin|>", False),
    14: ("<|tool_call_argument_begin|>", False), 15: ("<|tool_call_end|>", False),
    17: ("<|im_middle|>", True), 22: ("<think>", False), 23: ("</think>", False),
    30: ("[UNK]", True), 31: ("[PAD]", True),
}
SPECIAL_TEXT = regex.compile("|".join(regex.escape(t) for t, _ in NAMED_SPECIALS.values()))


def merge_allowed(token):
    """Lower case, blanks and punctuation only: see the note at the top."""
    return all(b < 128 and not chr(b).isdigit() and not chr(b).isupper() for b in token)


def train_ranks(texts):
    """Byte-pair merges by damped frequency (the square root of a piece's count, so that the prompts
    which stand everywhere do not take all merges); ties go to the smaller pair."""
    pieces = collections.Counter()
    for text in texts:
        for part in SPECIAL_TEXT.split(text):
            pieces.update(m.group().encode() for m in SPLIT.finditer(part))
    words = [([bytes([b]) for b in piece], n ** 0.5) for piece, n in sorted(pieces.items())]
    tokens = [bytes([b]) for b in BYTE_ORDER]
    while len(tokens) < NUM_RANKS:
        pairs = collections.Counter()
        for parts, n in words:
            for a, b in zip(parts, parts[1:]):
                if merge_allowed(a + b):
                    pairs[a, b] += n
        a, b = max(pairs, key=lambda p: (pairs[p], [-x for x in p[0] + p[1]]))
        tokens.append(a + b)
        for parts, _ in words:
            i = 0
            while i + 1 < len(parts):
                if parts[i] == a and parts[i + 1] == b:
                    parts[i:i + 2] = [a + b]
                i += 1
    return tokens


class Tokenizer:
    def __init__(self, tokens):
        self.tokens = list(tokens)                       # bytes of every rank
        self.ranks = {t: i for i, t in enumerate(self.tokens)}
        self.base = len(self.tokens)
        self.specials = {}
        for offset in range(NUM_SPECIALS):
            i = self.base + offset
            self.specials[NAMED_SPECIALS.get(offset, (f"<|reserved_token_{i}|>",))[0]] = i
        self.special_text = {i: t for t, i in self.specials.items()}
        self.special_split = regex.compile(
            "|".join(regex.escape(s) for s in sorted(self.specials, key=len, reverse=True)))
        self.cache = {}
        self.im_end = self.specials["<|im_end|>"]
        self.pad = self.specials["[PAD]"]

    @property
    def vocab_size(self):
        return self.base + NUM_SPECIALS

    def encode_piece(self, piece):
        ids = self.cache.get(piece)
        if ids is None:
            parts = [piece[i:i + 1] for i in range(len(piece))]
            while len(parts) > 1:
                ranked = [(self.ranks.get(a + b, self.base), i)
                          for i, (a, b) in enumerate(zip(parts, parts[1:]))]
                rank, i = min(ranked)
                if rank == self.base:
                    break
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            ids = self.cache[piece] = [self.ranks[p] for p in parts]
        return ids

    def encode_ordinary(self, text):
        return [i for m in SPLIT.finditer(text) for i in self.encode_piece(m.group().encode())]

    def encode(self, text):
        """Text in which special tokens are recognised, as in a rendered prompt."""
        out, pos = [], 0
        for m in self.special_split.finditer(text):
            out += self.encode_ordinary(text[pos:m.start()])
            out.append(self.specials[m.group()])
            pos = m.end()
        return out + self.encode_ordinary(text[pos:])

    def decode(self, ids):
        parts = [self.tokens[i] if i < self.base else self.special_text[i].encode() for i in ids]
        return b"".join(parts).decode("utf-8", "replace")

    def save(self, folder):
        with open(os.path.join(folder, "tiktoken.model"), "wb") as f:
            for rank, token in enumerate(self.tokens):
                f.write(base64.b64encode(token) + b" %d\n" % rank)
        added = {}
        for text, i in sorted(self.specials.items(), key=lambda x: x[1]):
            named = NAMED_SPECIALS.get(i - self.base)
            added[str(i)] = {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                             "single_word": False, "special": named[1] if named else True}
        config = {
            "added_tokens_decoder": added,
            "additional_special_tokens": [t for t in self.specials if t.startswith("<|im_")],
            "bos_token": "[BOS]", "clean_up_tokenization_spaces": False,
            "comment": "Tokenizer of the tiny demo model of tandem; not the vocabulary of Kimi K2.",
            "eos_token": "[EOS]", "model_max_length": 1000000000000000019884624838656,
            "pad_token": "[PAD]", "tokenizer_class": "TikTokenTokenizer", "unk_token": "[UNK]"}
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f, indent=2, ensure_ascii=False)
            f.write("\n")

    @staticmethod
    def load(folder):
        with open(os.path.join(folder, "tiktoken.model"), "rb") as f:
            return Tokenizer([base64.b64decode(line.split()[0]) for line in f])
