"""GradMem: digests are what K gradient steps from a learnt start make of a context.

Each step lowers the loss with which the frozen LM predicts the context from the memory, as
cramming does, but with plain gradient descent and with a few steps alone. Training
differentiates through these steps, so that it sees second derivatives of the LM.

Letters: B chunks, C tokens of a chunk, M memory vectors, D d_model, K steps.

Source: GradMem, 2026, arXiv:2603.13875; differentiating through gradient steps: Finn et al.
  2017, arXiv:1703.03400.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memcomp.compressors.protocol import Params
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, embed, hidden_states
from memcomp.lm.score import VOCAB_CHUNK, score_hidden
from memcomp.nn.parameters import with_axes
from memcomp.ranges import check_count, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradMemConfig:
    """Sizes and switches of GradMem.

    The defaults are those of the authors' script for text compression. There are three
    differences from their method. Here each step has a rate of its own, which is learnt.
    The LM is the same frozen one for writing and for reading, without adapters and without
    a second unembedding. The projection has no bias, because the start can hold it.

    Attributes:
      num_digests: number of memory vectors of a chunk (M).
      num_steps: number of gradient steps on a chunk (K); with 0, the digests are the start.
      rate: initial learning rate of every step, for the gradient of the mean loss in nats.
      num_second_order: number of steps, counted from the last, whose gradients are
        differentiated again in training; the gradients of the steps before them count as
        constants. None, or `num_steps` or more, for all steps.
      projection: whether the LM reads the memory through a learnt linear map, which starts
        as the identity.
      start_std: standard deviation of the initial start vectors.

    Raises:
      InputError: a value is out of its range.

    Source: GradMem, 2026, arXiv:2603.13875, and its code (github.com/yurakuratov/gradmem).
    """

    num_digests: int = 8
    num_steps: int = 2
    rate: float = 0.08
    num_second_order: int | None = None
    projection: bool = False
    start_std: float = 0.02

    def __post_init__(self):
        check_count("num_digests", self.num_digests)
        check_count("num_steps", self.num_steps, least=0)
        check_number("rate", self.rate, above=0)
        check_number("start_std", self.start_std)
        if self.num_second_order is not None:
            check_count("num_second_order", self.num_second_order, least=0)


@dataclasses.dataclass(frozen=True)
class GradMem:
    """GradMem for one LM: a `Compressor` (see `memcomp.compressors.protocol`).

    Attributes:
      lm_module: the `CausalLM` that writes the memory and reads it.
      config: sizes and switches.
    """

    lm_module: CausalLM
    config: GradMemConfig

    @property
    def num_digests(self) -> int:
        """Number of vectors of a chunk (M)."""
        return self.config.num_digests

    def init(self, key: Array) -> Params:
        """Initial weights in float32, boxed with their logical axes.

        They are `start` [M D], normal; `rate_logs` [K], the logarithms of each step's rate
        over the initial rate, zero; and `projection` [D D], the map that the LM reads
        through minus the identity, zero. A weight that the config does not use is left out.
        """
        cfg, D = self.config, self.lm_module.config.d_model
        zeros = nn.initializers.zeros
        start = with_axes(nn.initializers.normal(cfg.start_std), (None, "embed"))
        params = {"start": start(key, (cfg.num_digests, D))}
        if cfg.num_steps:
            params["rate_logs"] = with_axes(zeros, (None,))(key, (cfg.num_steps,))
        if cfg.projection:
            params["projection"] = with_axes(zeros, ("embed", None))(key, (D, D))
        return params

    def digest(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "B M D"]:
        """Writes each chunk into memory; the memory is in float32 until it is returned.

        Raises:
          InputError: the memory and a chunk do not fit into the LM's positions.
        """
        self._check_positions(tokens.shape[1])
        start = params["start"]
        wide = jnp.promote_types(start.dtype, jnp.float32)
        params = jax.tree.map(lambda x: x.astype(wide), params)
        projection = params.get("projection")
        memory = jnp.broadcast_to(params["start"][None], (len(tokens), *start.shape))
        if self.config.num_steps:
            vocab_size = self.lm_module.config.vocab_size
            loss = functools.partial(
                written_loss,
                tokens=tokens,
                lengths=lengths,
                lm_params=jax.lax.stop_gradient(lm_params),
                module=differentiable_twice(self.lm_module),
                vocab_chunk=vocab_size if self._unroll else VOCAB_CHUNK,
            )
            rates = self.config.rate * jnp.exp(params["rate_logs"])
            memory = self._steps(loss, memory, rates, projection)
        return projected(memory, projection).astype(start.dtype)

    @property
    def _unroll(self) -> bool:
        """Whether loops are unrolled, as the LM's layers are, so that all are counted."""
        return getattr(self.lm_module, "unroll", False)

    def _steps(self, loss, memory, rates, projection) -> Float[Array, "B M D"]:
        """Takes the steps; only the last ones see the derivatives of their gradients."""
        gradient = jax.grad(lambda memory: loss(projected(memory, projection)))

        def first_order(memory, rate):
            return memory - rate * jax.lax.stop_gradient(gradient(memory)), None

        def second_order(memory, rate):
            return memory - rate * gradient(memory), None

        cfg = self.config
        last = cfg.num_steps if cfg.num_second_order is None else cfg.num_second_order
        before = max(cfg.num_steps - last, 0)
        unroll = max(cfg.num_steps, 1) if self._unroll else 1
        memory, _ = jax.lax.scan(first_order, memory, rates[:before], unroll=unroll)
        # Training keeps the memory before each step, and computes the step again.
        step = jax.checkpoint(second_order, prevent_cse=False)
        return jax.lax.scan(step, memory, rates[before:], unroll=unroll)[0]

    def _check_positions(self, num_tokens: int) -> None:
        M, window = self.num_digests, self.lm_module.config.max_positions
        if num_tokens + M - 1 > window:
            raise InputError(
                f"chunks of {num_tokens} tokens and {M} memory vectors before them are "
                f"longer than the LM's window of {window}; cut contexts into chunks of "
                f"{max(window + 1 - M, 0)} or less"
            )


def projected(
    memory: Float[Array, "B M D"], projection: Float[Array, "D D"] | None
) -> Float[Array, "B M D"]:
    """Vectors that the LM reads: the memory times (identity + projection)."""
    if projection is None:
        return memory
    return memory + jnp.einsum("bmd,de->bme", memory, projection)


def written_loss(
    memory: Float[Array, "B M D"],
    *,
    tokens: Int[Array, "B C"],
    lengths: Int[Array, "B"],
    lm_params: Params,
    module: CausalLM,
    vocab_chunk: int = VOCAB_CHUNK,
) -> Float[Array, ""]:
    """Mean cross-entropy in nats of each chunk given its memory, summed over chunks.

    The first token is predicted too. Each chunk's gradient is that of its own mean, as no
    chunk sees another.
    """
    words = embed(lm_params, tokens[:, :-1], module=module)
    x = jnp.concatenate([memory.astype(words.dtype), words], axis=1)
    # The last memory vector predicts the first token.
    hidden = hidden_states(lm_params, x, module=module)[:, memory.shape[1] - 1 :]
    chunks = {"module": module, "vocab_chunk": vocab_chunk}
    rows = hidden.reshape(-1, hidden.shape[-1])
    losses = score_hidden(lm_params, rows, tokens.ravel(), **chunks).loss
    there = jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]
    sums = jnp.sum(losses.reshape(tokens.shape), axis=1, where=there)
    return jnp.sum(sums / lengths)


@functools.lru_cache
def differentiable_twice(module: CausalLM) -> Any:
    """Returns the LM with plain attention, because kernels have only first derivatives."""
    if getattr(module.config, "attention", "plain") == "plain":
        return module
    return module.clone(config=dataclasses.replace(module.config, attention="plain"))
