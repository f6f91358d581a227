"""IC-Former's equations in PyTorch: one chunk at a time, no padding, loops over heads.

Written from the equations of arXiv:2406.13618 and appendix C, in the names of the
published checkpoint; shares nothing with `memcomp`.
"""

import torch


def random_weights(*, D, F, N, K, L, M, seed):
    """Large weights, so that errors show, and no trivial norm or digest."""
    generator = torch.Generator().manual_seed(seed)
    H = D // N

    def normal(*shape, mean=0.0, std=0.3):
        return mean + std * torch.randn(*shape, generator=generator)

    weights = {
        "digest_embeddings": normal(1, M, D, std=1.0),
        "AE": normal(1, 1, D),
        "FT": normal(1, 1, D),
        "encoder.norm.weight": normal(D, mean=1.0),
    }
    for i in range(L):
        layer = f"encoder.layers.{i}."
        for norm in ("cross_input", "context", "post_attention"):
            weights[f"{layer}{norm}_layernorm.weight"] = normal(D, mean=1.0)
        for name, shape in {
            "cross_attn.q_proj": (N * H, D),
            "cross_attn.k_proj": (K * H, D),
            "cross_attn.v_proj": (K * H, D),
            "cross_attn.o_proj": (D, N * H),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
        }.items():
            weights[f"{layer}{name}.weight"] = normal(*shape)
    return weights


def rms_norm(x, weight, eps):
    return weight * x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + eps)


def turned(x, position, theta):
    """A head's vector with its pairs (j, j + H/2) turned, as complex numbers."""
    half = x.shape[-1] // 2
    angles = position * theta ** (-torch.arange(half) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half), angles)
    return torch.cat([z.real, z.imag])


def soft_prompt(weights, words, *, N, K, L, eps=1e-6, theta=10_000.0):
    """The [M D] soft prompt of one chunk's word vectors [n D]."""
    digests = weights["digest_embeddings"][0]
    n, M = len(words), len(digests)
    source, x = torch.cat([words, digests]), digests
    for i in range(L):
        w = {
            name.removeprefix(f"encoder.layers.{i}.").removesuffix(".weight"): value
            for name, value in weights.items()
            if name.startswith(f"encoder.layers.{i}.")
        }
        normed = rms_norm(x, w["cross_input_layernorm"], eps)
        context = rms_norm(source, w["context_layernorm"], eps)
        q = normed @ w["cross_attn.q_proj"].T
        k = context @ w["cross_attn.k_proj"].T
        v = context @ w["cross_attn.v_proj"].T
        H = q.shape[1] // N
        heads = []
        for head in range(N):
            own, shared = slice(head * H, head * H + H), head // (N // K) * H
            shared = slice(shared, shared + H)
            keys = torch.stack([turned(k[s, shared], s, theta) for s in range(n + M)])
            rows = []
            for j in range(M):
                logits = keys[: n + j + 1] @ turned(q[j, own], n + j, theta) / H**0.5
                rows.append(torch.softmax(logits, dim=0) @ v[: n + j + 1, shared])
            heads.append(torch.stack(rows))
        x = x + torch.cat(heads, dim=1) @ w["cross_attn.o_proj"].T
        normed = rms_norm(x, w["post_attention_layernorm"], eps)
        gate = torch.nn.functional.silu(normed @ w["mlp.gate_proj"].T)
        x = x + (gate * (normed @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    return rms_norm(x, weights["encoder.norm.weight"], eps)
