"""The weights that training starts from: random, but for the heads that copying needs.

A model copies a name by finding the place where the token just written stood before and repeating
what came next. That takes two layers of heads: the lower write the token *before* each place into a
slot of the residual stream, the upper look for the place whose slot holds the present token and pass
on what stands there. From random weights a model of this size needs some thousand steps to find
the pair; started with it, training only has to put it to use. A second pair compares two tokens, for
names in which a letter comes twice ("Sapporo").

Slots of the residual stream (256 wide): 0 a constant, 1..159 the token, 160..191 the token two
places before, 192..223 what is copied (read by the head), 224..255 the token before. Training is
free to move all of it.
"""
import math

import torch
import torch.nn.functional as F

BEFORE_THAT, COPIED, BEFORE = 160, 192, 224     # where the slots begin
TOKEN_END = 160
WIDTH = 32                  # of a slot: the size of a head's content key and of its value
NEAR, FAR, CARRY = 24, 16, 24   # how the upper layer's latent of 64 is shared out
STRENGTH, PAIRS = 2.2, 4    # of the rope part of the lower heads
SHARPNESS = 1.5             # of the upper heads' match


def token_reader(rows):
    """[rows, 256] that reads the token's part of the stream."""
    out = torch.zeros(rows, 256)
    out[:, 1:TOKEN_END] = torch.linalg.qr(torch.randn(TOKEN_END - 1, rows))[0].T * 2
    return out


def head_rows(weight, head, size):
    return weight[head * size:(head + 1) * size]


def start_lower_heads(model, look):
    """Head 0 of the first layer looks one place back, head 1 two: their rope query and the rope key
    read only the constant, so the product depends on the distance alone: pair j gives
    cos(f_j (distance - back)), which is greatest at that distance."""
    attn = model.model.layers[0].self_attn
    attn.q_a_proj.weight[0] = 0
    attn.q_a_proj.weight[0, 0] = 1.0
    latent = attn.kv_a_proj_with_mqa.weight
    latent[:WIDTH] = look
    rope_key = latent[attn.rank:]
    rope_key *= 0.1
    rope_key[:2 * PAIRS] = 0
    rope_key[0:2 * PAIRS:2, 0] = STRENGTH
    for head, slot in ((0, BEFORE), (1, BEFORE_THAT)):
        query = head_rows(attn.q_b_proj.weight, head, attn.nope + attn.rope)
        query *= 0.1
        for j in range(PAIRS):
            angle = float(model.frequencies[j]) * (head + 1)
            pair = query[attn.nope + 2 * j:attn.nope + 2 * j + 2]
            pair.zero_()
            pair[0, 0] = STRENGTH * math.cos(angle)
            pair[1, 0] = -STRENGTH * math.sin(angle)
        value = head_rows(attn.kv_b_proj.weight, head, attn.nope + attn.v)[attn.nope:]
        value.zero_()
        value[:, :WIDTH] = torch.eye(WIDTH)
        out = attn.o_proj.weight[:, head * attn.v:(head + 1) * attn.v]
        out.zero_()
        out[slot:slot + WIDTH] = torch.eye(WIDTH)


def start_upper_heads(model, look, carry):
    """Head 0 of the second layer compares the present token with the token before each place, head 1
    the present pair of tokens with the pair before it; both copy `carry` of what stands there."""
    attn = model.model.layers[1].self_attn
    attn.q_a_proj.weight[:WIDTH] = look
    attn.q_a_proj.weight[WIDTH:2 * WIDTH] = 0
    attn.q_a_proj.weight[WIDTH:2 * WIDTH, BEFORE:BEFORE + WIDTH] = torch.eye(WIDTH)
    latent = attn.kv_a_proj_with_mqa.weight
    latent[:NEAR + FAR + CARRY] = 0
    latent[:NEAR, BEFORE:BEFORE + NEAR] = torch.eye(NEAR)
    latent[NEAR:NEAR + FAR, BEFORE_THAT:BEFORE_THAT + FAR] = torch.eye(FAR)
    latent[NEAR + FAR:NEAR + FAR + CARRY] = carry
    # (width, column of the query's latent, column of the key's latent) of each part of the match
    matches = ([(NEAR, 0, 0)], [(FAR, 0, 0), (FAR, WIDTH, NEAR)])
    for head, parts in enumerate(matches):
        query = head_rows(attn.q_b_proj.weight, head, attn.nope + attn.rope)
        query *= 0.1
        key_value = head_rows(attn.kv_b_proj.weight, head, attn.nope + attn.v)
        key_value.zero_()
        row = 0
        for width, q, k in parts:
            query[row:row + width, q:q + width] = torch.eye(width) * SHARPNESS
            key_value[row:row + width, k:k + width] = torch.eye(width) * SHARPNESS
            row += width
        key_value[attn.nope:attn.nope + CARRY, NEAR + FAR:NEAR + FAR + CARRY] = torch.eye(CARRY)
        out = attn.o_proj.weight[:, head * attn.v:(head + 1) * attn.v]
        out.zero_()
        out[COPIED:COPIED + CARRY, :CARRY] = torch.eye(CARRY) * 0.7


@torch.no_grad()
def start_copying_heads(model):
    embed = model.model.embed_tokens.weight
    embed[:, TOKEN_END:] = 0
    embed[:, 0] = 1.0
    look, carry = token_reader(WIDTH), token_reader(CARRY)
    start_lower_heads(model, look)
    start_upper_heads(model, look, carry)
    carried = F.rms_norm(F.rms_norm(embed, (256,)) @ carry.T, (CARRY,))
    model.lm_head.weight[:, COPIED:COPIED + CARRY] = 0.14 * carried
