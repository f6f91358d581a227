"""Row mamba_130m of benchmark.py: times a forward pass, and one with its gradient.

Both sides read the same input vectors [T D] with the same frozen weights. They compute the
mean loss of the tokens [T], and its gradient with respect to the vectors.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memcomp.lm.protocol import LanguageModel, hidden_states
from memcomp.lm.score import score_hidden

from .timing import Side, timed


def our_programs(lm: LanguageModel, vectors: np.ndarray, tokens: np.ndarray):
    """Compiles `forward(vectors, params, tokens)` and `gradient`, with their arguments."""

    def loss(vectors, params, tokens):
        hidden = hidden_states(params, vectors[None], module=lm.module)[0]
        return score_hidden(params, hidden, tokens, module=lm.module).loss.mean()

    arguments = (jnp.asarray(vectors), lm.params, jnp.asarray(tokens))
    functions = {"forward": loss, "gradient": jax.value_and_grad(loss)}
    return {
        name: (jax.jit(function).lower(*arguments).compile(), arguments)
        for name, function in functions.items()
    }


def our_sides(programs: dict[str, Any], steps: int) -> dict[str, Side]:
    """Returns measurements of the runs per second of each program."""

    def side(program, arguments):
        def run():
            for _ in range(steps):
                jax.block_until_ready(program(*arguments))

        run()
        return timed(run, steps)

    return {name: side(*program) for name, program in programs.items()}


def pytorch_sides(model: Any, vectors: np.ndarray, tokens: np.ndarray) -> dict[str, Side]:
    """Returns the same measurements of a transformers model; each call is one run."""
    import torch

    def forward() -> None:
        with torch.no_grad():
            pytorch_loss(model, torch.as_tensor(vectors), tokens)

    forward()
    gradient = functools.partial(pytorch_gradient, model, vectors, tokens)
    return {"forward": timed(forward), "gradient": timed(gradient)}


def pytorch_gradient(model: Any, vectors: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The gradient [T D] that transformers and PyTorch compute."""
    import torch

    x = torch.tensor(vectors, requires_grad=True)
    (gradient,) = torch.autograd.grad(pytorch_loss(model, x, tokens), x)
    return gradient.numpy()


def pytorch_loss(model: Any, x: Any, tokens: np.ndarray) -> Any:
    """Mean cross-entropy of the tokens, each at the position of its vector."""
    import torch

    logits = model(inputs_embeds=x[None], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.as_tensor(tokens).long())
