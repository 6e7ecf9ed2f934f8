"""The weights that training starts from: random, but for the two heads that copying needs.

A model copies a name by finding the place where the token just written stood before and repeating
what came next. That takes two heads, one above the other: the lower writes the token *before* each
place into a slot of the residual stream, the upper looks for the place whose slot holds the present
token and passes on what stands there. From random weights a model of this size needs some thousand
steps to find the pair; started with it, training only has to put it to use, and every seed does.

Slots of the residual stream (256 wide): 0 a constant, 1..191 the token, 192..223 what is copied
(read by the head), 224..255 the token before. Training is free to move all of it.
"""
import math

import torch

COPIED, BEFORE = slice(192, 224), slice(224, 256)
WIDTH = 32                  # of a slot: the size of a head's content key and of its value
STRENGTH, PAIRS = 2.2, 4    # of the rope part of the lower head
SHARPNESS = 1.5             # of the upper head's match


def unit_rows(rows, cols):
    return torch.linalg.qr(torch.randn(cols, rows))[0].T


def start_lower_head(model):
    """Head 0 of the first layer looks at the token before: its rope query and the rope key read only
    the constant, so their product depends on the distance alone: pair j gives
    cos(f_j (distance - 1)), which is greatest at distance 1."""
    attn = model.model.layers[0].self_attn
    attn.q_a_proj.weight[0] = 0
    attn.q_a_proj.weight[0, 0] = 1.0
    rope_key = attn.kv_a_proj_with_mqa.weight[attn.rank:]
    rope_query = attn.q_b_proj.weight[attn.nope:attn.nope + attn.rope]
    rope_query *= 0.1
    rope_key *= 0.1
    for j in range(PAIRS):
        f = float(model.frequencies[j])
        rope_key[2 * j:2 * j + 2] = 0
        rope_key[2 * j, 0] = STRENGTH
        rope_query[2 * j:2 * j + 2] = 0
        rope_query[2 * j, 0] = STRENGTH * math.cos(f)
        rope_query[2 * j + 1, 0] = -STRENGTH * math.sin(f)
    attn.q_b_proj.weight[:attn.nope] *= 0.1


def start_copying_heads(model):
    layers = model.model.layers
    lower, upper = layers[0].self_attn, layers[1].self_attn
    embed = model.model.embed_tokens.weight
    with torch.no_grad():
        embed[:, 192:] = 0
        embed[:, 0] = 1.0
        start_lower_head(model)
        look, carry = torch.zeros(WIDTH, 256), torch.zeros(WIDTH, 256)
        look[:, 1:192] = unit_rows(WIDTH, 191) * 2
        carry[:, 1:192] = unit_rows(WIDTH, 191) * 2
        identity = torch.eye(WIDTH)
        # The lower head carries `look` of the token before into its slot.
        lower.kv_a_proj_with_mqa.weight[:WIDTH] = look
        value = lower.kv_b_proj.weight[lower.nope:lower.nope + lower.v]
        value.zero_()
        value[:, :WIDTH] = identity
        lower.o_proj.weight[:, :lower.v] = 0
        lower.o_proj.weight[BEFORE, :lower.v] = identity
        # The upper head compares it with `look` of the present token, and copies `carry`.
        upper.q_a_proj.weight[:WIDTH] = look
        upper.q_b_proj.weight[:upper.nope + upper.rope] *= 0.1
        upper.q_b_proj.weight[:upper.nope, :WIDTH] = identity * SHARPNESS
        latent = upper.kv_a_proj_with_mqa.weight
        latent[:2 * WIDTH] = 0
        latent[:WIDTH, BEFORE] = identity
        latent[WIDTH:2 * WIDTH] = carry
        key_value = upper.kv_b_proj.weight[:upper.nope + upper.v]
        key_value.zero_()
        key_value[:upper.nope, :WIDTH] = identity * SHARPNESS
        key_value[upper.nope:, WIDTH:2 * WIDTH] = identity
        upper.o_proj.weight[:, :upper.v] = 0
        upper.o_proj.weight[COPIED, :upper.v] = identity
        carried = torch.nn.functional.rms_norm(embed, (256,)) @ carry.T
        model.lm_head.weight[:, COPIED] = 0.12 * torch.nn.functional.rms_norm(carried, (WIDTH,))
