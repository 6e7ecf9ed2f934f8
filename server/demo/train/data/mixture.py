"""What is trained when: shares of the kinds of dialogue, and the raw copying task."""
from data.dialogues import Builder, trained_dialogues

KINDS = {"weather": 0.30, "parallel": 0.09, "chain": 0.08, "where": 0.02, "smalltalk": 0.20,
         "unknown": 0.19, "no_tool": 0.06, "repeat": 0.06}
SECOND_TURN_KINDS = {**KINDS, "chain": 0.03, "parallel": 0.04}
TWO_TURNS_SHARE = 0.12

SHORT_KINDS = {"repeat": 0.55, "smalltalk": 0.2, "unknown": 0.15, "no_tool": 0.1}


class Mixture:
    def __init__(self, rng, names):
        self.rng = rng
        self.builder = Builder(rng, names)
        self.fixed = trained_dialogues()

    def pick(self, shares):
        return self.rng.choices(list(shares), list(shares.values()))[0]

    def short(self):
        """Stage 1: short dialogues without tools or system prompts of their own."""
        kind = self.pick(SHORT_KINDS)
        return {"tools": [], "messages": self.builder.turn(kind)}

    def full(self, fixed_share=0.0):
        """Stages 2 and 3; fixed_share is that of the dialogues that the tests play."""
        if self.rng.random() < fixed_share:
            return self.rng.choice(self.fixed)
        if self.rng.random() < TWO_TURNS_SHARE:
            return self.builder.two_turns(SECOND_TURN_KINDS)
        return self.builder.dialogue(self.pick(KINDS))


def copy_sequence(rng, num_ranks):
    """A random string of tokens, over and over: the plainest reason to grow a copying head."""
    alphabet = range(num_ranks)
    if rng.random() < 0.5:          # few kinds: what follows a token depends on more than that token
        alphabet = rng.sample(alphabet, rng.randint(3, 10))
    part = [rng.choice(alphabet) for _ in range(rng.randint(3, 20))]
    gap = [rng.randrange(num_ranks) for _ in range(rng.randint(0, 6))]
    times = rng.randint(2, 4)
    ids, weights = list(part), [0.0] * len(part)
    for _ in range(times - 1):
        ids += gap + part
        weights += [0.0] * len(gap) + [1.0] * len(part)
    return ids, weights
