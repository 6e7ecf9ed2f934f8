"""The K2 architecture in small: MLA with q-LoRA and YaRN, one dense layer, then mixture-of-experts
layers with a sigmoid router chosen by bias. Parameter names are those of the checkpoint, except
that a layer's routed experts are stacked (export.py splits them).
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

GROUP = 32          # inputs that share one INT4 scale
LATENT_EPS = 1e-6   # q_a_layernorm and kv_a_layernorm keep the reference's default


def linear(rows, cols, gain=1.0):
    module = nn.Linear(cols, rows, bias=False)
    nn.init.normal_(module.weight, std=gain / math.sqrt(cols))
    return module


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def yarn_frequencies(cfg):
    """Frequencies of the rope pairs: below `low` as they are, above `high` divided by the factor."""
    dim, theta, yarn = cfg["qk_rope_head_dim"], cfg["rope_theta"], cfg["rope_scaling"]

    def correction(beta):
        return dim * math.log(yarn["original_max_position_embeddings"] / (2 * math.pi * beta)) / (
            2 * math.log(theta))

    low = max(math.floor(correction(yarn["beta_fast"])), 0)
    high = min(math.ceil(correction(yarn["beta_slow"])), dim - 1)
    high = high + 0.001 if low == high else high
    j = torch.arange(dim // 2, dtype=torch.float32)
    ramp = ((j - low) / (high - low)).clamp(0, 1)
    base = theta ** (-2 * j / dim)
    return base * (1 - ramp) + base / yarn["factor"] * ramp


def yarn_mscale(factor, mscale):
    return 0.1 * mscale * math.log(factor) + 1.0


def rotate(x, cos, sin):
    """Interleaved pairs (2j, 2j+1); x is [..., T, d]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        h, self.heads = cfg["hidden_size"], cfg["num_attention_heads"]
        self.nope, self.rope = cfg["qk_nope_head_dim"], cfg["qk_rope_head_dim"]
        self.v, self.rank = cfg["v_head_dim"], cfg["kv_lora_rank"]
        self.q_a_proj = linear(cfg["q_lora_rank"], h)
        self.q_a_layernorm = RmsNorm(cfg["q_lora_rank"], LATENT_EPS)
        self.q_b_proj = linear(self.heads * (self.nope + self.rope), cfg["q_lora_rank"])
        self.kv_a_proj_with_mqa = linear(self.rank + self.rope, h)
        self.kv_a_layernorm = RmsNorm(self.rank, LATENT_EPS)
        self.kv_b_proj = linear(self.heads * (self.nope + self.v), self.rank)
        self.o_proj = linear(h, self.heads * self.v, gain=0.3)
        yarn = cfg["rope_scaling"]
        m = yarn_mscale(yarn["factor"], yarn["mscale_all_dim"])
        self.scale = (self.nope + self.rope) ** -0.5 * m * m

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.view(b, t, self.heads, self.nope + self.rope).transpose(1, 2)
        a = self.kv_a_proj_with_mqa(x)
        kv = self.kv_b_proj(self.kv_a_layernorm(a[..., :self.rank]))
        kv = kv.view(b, t, self.heads, self.nope + self.v).transpose(1, 2)
        k_rope = rotate(a[..., self.rank:].float(), cos, sin).unsqueeze(1)
        q = torch.cat([q[..., :self.nope].float(),
                       rotate(q[..., self.nope:].float(), cos, sin)], -1)
        k = torch.cat([kv[..., :self.nope].float(), k_rope.expand(-1, self.heads, -1, -1)], -1)
        # Keys are wider than values: padding the values keeps the fused attention kernel.
        v = F.pad(kv[..., self.nope:].float(), (0, self.nope + self.rope - self.v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.o_proj(o[..., :self.v].transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = linear(inner, hidden)
        self.up_proj = linear(inner, hidden)
        self.down_proj = linear(hidden, inner, gain=0.3)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Permute(torch.autograd.Function):
    """Rows in another order; the gradient is a gather too, not a scattered sum."""

    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def int4_codes(w):
    """Codes in [-8, 7] and BF16 scales per group of 32 inputs: s = bf16(max|w| / 7)."""
    groups = w.detach().unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 7).clamp_min(1e-8).bfloat16().float()
    return (groups / scale).round().clamp(-8, 7), scale


def fake_quantise(w):
    """The weight as INT4 would give it; the gradient passes straight through."""
    codes, scale = int4_codes(w)
    return w + ((codes * scale).flatten(-2) - w).detach()


class Gate(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cfg["n_routed_experts"], cfg["hidden_size"])
                                   / math.sqrt(cfg["hidden_size"]))
        self.register_buffer("e_score_correction_bias", torch.zeros(cfg["n_routed_experts"]))
        self.top_k, self.scaling = cfg["num_experts_per_tok"], cfg["routed_scaling_factor"]

    def forward(self, x):
        score = torch.sigmoid(F.linear(x.float(), self.weight))
        ids = torch.topk(score + self.e_score_correction_bias, self.top_k, sorted=False)[1]
        weight = score.gather(1, ids)
        return ids, weight / (weight.sum(-1, keepdim=True) + 1e-20) * self.scaling


class Moe(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        h, inner, self.num = cfg["hidden_size"], cfg["moe_intermediate_size"], cfg["n_routed_experts"]
        self.gate = Gate(cfg)
        self.shared_experts = Mlp(h, inner * cfg["n_shared_experts"])
        self.gate_proj = nn.Parameter(torch.randn(self.num, inner, h) / math.sqrt(h))
        self.up_proj = nn.Parameter(torch.randn(self.num, inner, h) / math.sqrt(h))
        self.down_proj = nn.Parameter(torch.randn(self.num, h, inner) * 0.15 / math.sqrt(inner))
        self.quantise = False
        self.load = torch.zeros(self.num)           # tokens per expert of the last batch

    def forward(self, x):
        flat = x.flatten(0, 1)
        ids, weight = self.gate(flat)
        order = ids.flatten().argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        counts = ids.flatten().bincount(minlength=self.num)
        self.load = counts.float()
        copies = flat.unsqueeze(1).expand(-1, self.gate.top_k, -1).reshape(len(order), -1)
        wg, wu, wd = self.gate_proj, self.up_proj, self.down_proj
        if self.quantise:
            wg, wu, wd = fake_quantise(wg), fake_quantise(wu), fake_quantise(wd)
        outputs = []
        for e, rows in enumerate(Permute.apply(copies, order, inverse).split(counts.tolist())):
            inner = F.silu(F.linear(rows, wg[e])) * F.linear(rows, wu[e])
            outputs.append(F.linear(inner, wd[e]))
        routed = Permute.apply(torch.cat(outputs), inverse, order)
        routed = (routed.view(len(flat), self.gate.top_k, -1) * weight.unsqueeze(-1)).sum(1)
        return routed.view_as(x) + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, cfg, dense):
        super().__init__()
        h, eps = cfg["hidden_size"], cfg["rms_norm_eps"]
        self.input_layernorm = RmsNorm(h, eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RmsNorm(h, eps)
        self.mlp = Mlp(h, cfg["intermediate_size"]) if dense else Moe(cfg)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.embed_tokens = nn.Embedding(cfg["vocab_size"], cfg["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        dense = cfg["first_k_dense_replace"]
        self.layers = nn.ModuleList(Layer(cfg, i < dense) for i in range(cfg["num_hidden_layers"]))
        self.norm = RmsNorm(cfg["hidden_size"], cfg["rms_norm_eps"])


class DemoModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.model = Body(cfg)
        self.lm_head = linear(cfg["vocab_size"], cfg["hidden_size"], gain=0.3)
        self.register_buffer("frequencies", yarn_frequencies(cfg), persistent=False)

    def hidden(self, ids):
        angle = torch.arange(ids.shape[1], dtype=torch.float32).unsqueeze(1) * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def forward(self, ids):
        return self.lm_head(self.hidden(ids)).float()

    def moe_layers(self):
        return [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, Moe)]

