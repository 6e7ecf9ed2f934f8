"""Playing dialogues without generating: a play is right when every generated token is the expected
one, so at each place of the expected text it is enough to look at the model's distribution there.
Greedy is right when the expected token is the likeliest everywhere; sampling at temperature 1.0
draws one token at every place, and the play fails at the first that differs. For an exact
comparison this has the same outcome, and the same distribution, as generating.
"""
import torch

from chat import to_segments


def encode_dialogue(tokenizer, dialogue):
    """(ids, is_target of every id)."""
    ids, target = [], []
    for text, is_target in to_segments(dialogue):
        part = tokenizer.encode(text)
        ids += part
        target += [is_target] * len(part)
    return ids, target


def pad_rows(rows, value):
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


@torch.no_grad()
def expected_logits(model, tokenizer, dialogues, batch=16):
    """For each dialogue: logits [n, vocab] at the places to be generated, and the expected ids [n]."""
    encoded = [encode_dialogue(tokenizer, d) for d in dialogues]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
    out = [None] * len(encoded)
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        ids = pad_rows([encoded[i][0] for i in part], tokenizer.pad)
        logits = model(ids)
        for row, i in enumerate(part):
            places = torch.tensor(encoded[i][1]).nonzero().flatten()
            out[i] = (logits[row, places - 1], ids[row, places])
    return out


def greedy_right(logits, expected):
    return bool((logits.argmax(-1) == expected).all())


def plays_right(logits, expected, plays, generator):
    """How many of `plays` sampled plays at temperature 1.0 are right."""
    draws = torch.multinomial(torch.softmax(logits.double(), -1), plays, replacement=True,
                              generator=generator)
    return int((draws == expected.unsqueeze(1)).all(0).sum())


def probability(logits, expected):
    """The exact probability that one play at temperature 1.0 is right."""
    logp = torch.log_softmax(logits.double(), -1).gather(1, expected.unsqueeze(1))
    return float(logp.sum().exp())
