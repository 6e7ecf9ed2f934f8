"""Muon for the matrices of the layers (momentum, then the nearest orthogonal matrix as the step) and
AdamW for everything else (embedding, head, norms, routers)."""
import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)     # quintic Newton-Schulz


def orthogonalise(g, steps=5):
    """Singular values of each matrix of g [..., r, c] towards 1."""
    a, b, c = _COEFFICIENTS
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(m, group["momentum"]))
                gain = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * gain)


def build(model, muon_lr, adam_lr):
    """[(optimizer, its highest learning rate)]."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        is_matrix = p.dim() >= 2 and ".layers." in name and not name.endswith("gate.weight")
        (matrices if is_matrix else others).append(p)
    return [(Muon(matrices, muon_lr), muon_lr),
            (torch.optim.AdamW(others, adam_lr, betas=(0.9, 0.95), weight_decay=0.01), adam_lr)]
