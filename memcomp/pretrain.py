"""Trains a language model from text: tokenizer, optimiser, one jitted chunk of steps.

Letters: S steps of a chunk, B windows of a batch, W tokens of a window with its W - 1
targets, V vocabulary.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from typing import Any

import flax.core.meta
import jax
import jax.numpy as jnp
import optax
import tokenizers
from etils import epath
from jaxtyping import Array, Float, Int, UInt16

from memcomp.disk import make_folder, write_whole
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, abstract_params, check_dtype
from memcomp.lm.protocol import CausalLM, embed, hidden_states
from memcomp.lm.score import score_hidden
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.ranges import check_count, check_number

# Token that begins every document, and its id; also bos, eos and pad of the tokenizer.
START = "<|endoftext|>"
START_ID = 0
MOST_TOKENS = 2**62  # largest num_tokens; only Python integers count the tokens of a run


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimiser.

    Attributes:
      num_tokens: number of targets over the whole run, rounded down to whole batches.
      window: number of targets of a window.
      batch_size: number of windows per step.
      learning_rate: peak learning rate of the matrices. Their update has a root mean square
        of about 0.2 times this, as AdamW's has, so that both rates are comparable.
      embedding_learning_rate: peak learning rate of embedding, norms and biases.
      warmup: fraction of the steps in which the learning rate rises from 0.
      decay: fraction of the steps, the last ones, in which it falls to 0.
      weight_decay: weight decay of the matrices, which is multiplied by the learning rate;
        nothing else decays.
      max_grad_norm: global norm to which longer gradients are clipped.
      dtype: dtype of weights and activations in the forward and backward pass, a key of
        `memcomp.lm.load.DTYPES`; the weights that are trained stay in float32.
    """

    num_tokens: int
    window: int
    batch_size: int
    learning_rate: float
    embedding_learning_rate: float
    warmup: float
    decay: float
    weight_decay: float
    max_grad_norm: float
    dtype: str

    def __post_init__(self):
        check_count("num_tokens", self.num_tokens, most=MOST_TOKENS)
        for name in ("window", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("learning_rate", "embedding_learning_rate", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        for name in ("warmup", "decay", "weight_decay"):
            check_number(name, getattr(self, name))
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > 1:
            raise InputError(
                f"warmup {self.warmup} and decay {self.decay} are fractions of one run; "
                "give numbers of at least 0 that sum to at most 1"
            )
        check_dtype(self.dtype)

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run."""
        return max(1, self.num_tokens // (self.window * self.batch_size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The training state, which a checkpoint holds; no step needs a random key.

    Attributes:
      params: weights in float32, as a nested dict.
      opt_state: state of `optimizer`.
      step: Int[Array, ""], number of steps taken.
    """

    params: Any
    opt_state: Any
    step: Any  # not always an array: orbax also fills this class with other leaves


def make_model(*, rope_theta: float, **sizes: Any) -> Llama:
    """Makes the Flax module of a Llama with tied embeddings.

    Args:
      rope_theta: base of the rotary frequencies.
      sizes: fields of `LlamaConfig`.
    """
    rotary = Rotary(sizes["head_dim"], rope_theta)
    return Llama(LlamaConfig(**sizes, rotary=rotary, tied_embeddings=True))


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Trains a byte-level BPE tokenizer of at most `vocab_size` tokens; `START` has id 0.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
      section 2.2; Sennrich et al. 2016, arXiv:1508.07909.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[START],
        # All 256 bytes are tokens, so that any text can be tokenized.
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def save_tokenizer(
    tokenizer: tokenizers.Tokenizer, folder: epath.Path, max_positions: int
) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which transformers loads."""
    make_folder(folder)
    entries = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": START,
        "pad_token": START,
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    write_whole(folder / "tokenizer_config.json", json.dumps(entries, indent=2) + "\n")
    # Written last, so that its presence implies that of the other file.
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


def schedule(cfg: TrainConfig, peak: float) -> optax.Schedule:
    """Learning rate that rises linearly, is constant, then falls as 1 - sqrt(progress).

    Source: Hu et al. 2024, arXiv:2404.06395 (the three phases); Haegele et al. 2024,
      arXiv:2405.18392 (the form of the decay).
    """
    warmup = max(1, round(cfg.warmup * cfg.num_steps))
    decay = max(1, round(cfg.decay * cfg.num_steps))

    def cool(count):
        return peak * (1 - jnp.sqrt(jnp.clip(count / decay, 0.0, 1.0)))

    # The learning rate of the first and of the last step is above 0.
    def rise(count):
        return peak * jnp.minimum(1.0, (count + 1) / warmup)

    constant = optax.constant_schedule(peak)
    start = max(warmup, cfg.num_steps - decay)
    return optax.join_schedules([rise, constant, cool], [warmup, start])


def matrix_axes(module: CausalLM) -> Any:
    """Says, for each parameter, which axes Muon takes as rows and columns of a matrix.

    A kernel maps between the residual stream, its axis "embed", and all its other named
    axes together, such as heads times head width. The axis of layers and axes without a
    name (the q, k, v slot of a fused kernel) number separate matrices.

    Returns:
      A tree like the parameters, of `optax.contrib.MuonDimensionNumbers`; None for all
      parameters that are no kernels: embedding, head, norms, biases.
    """

    def axes(path, box):
        if path[-1].key != "kernel":
            return None
        inner = [
            i for i, name in enumerate(box.names) if name is not None and name != "layers"
        ]
        embed = box.names.index("embed")
        others = tuple(i for i in inner if i != embed)
        pair = ((embed,), others) if embed == inner[0] else (others, (embed,))
        return optax.contrib.MuonDimensionNumbers(*pair)

    return jax.tree_util.tree_map_with_path(axes, abstract_params(module), is_leaf=_is_box)


def _is_box(x: Any) -> bool:
    return isinstance(x, flax.core.meta.AxisMetadata)


def optimizer(module: CausalLM, cfg: TrainConfig) -> optax.GradientTransformation:
    """Muon for kernels and AdamW for other parameters, after clipping by the global norm.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; its scale: Liu et al.
      2025, arXiv:2502.16982.
    """
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.contrib.muon(
            schedule(cfg, cfg.learning_rate),
            weight_decay=cfg.weight_decay,
            adam_b2=0.95,
            adam_learning_rate=schedule(cfg, cfg.embedding_learning_rate),
            muon_weight_dimension_numbers=matrix_axes(module),
            consistent_rms=0.2,
        ),
    )


@functools.partial(jax.jit, static_argnames=("module", "cfg"))
def init_state(key: Array, *, module: CausalLM, cfg: TrainConfig) -> TrainState:
    """Returns the state of step 0, with random weights in float32."""
    x = jnp.zeros((1, 2, module.config.d_model))
    params = flax.core.meta.unbox(module.init(key, x)["params"])
    opt_state = optimizer(module, cfg).init(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))


def mean_loss(
    params: Any, windows: Int[Array, "B W"], *, module: CausalLM, dtype: Any
) -> Float[Array, ""]:
    """Mean loss in nats per token over all W - 1 targets of all windows."""
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    x = embed(params, windows[:, :-1], module=module)
    hidden = hidden_states(params, x, module=module)
    # One long text; the gradient of a vmap over windows would be [B V D] before its sum.
    hidden = hidden.reshape(-1, hidden.shape[-1])
    targets = windows[:, 1:].reshape(-1)
    return score_hidden(params, hidden, targets, module=module).loss.mean()


@functools.partial(jax.jit, static_argnames=("module", "cfg"), donate_argnums=0)
def train_chunk(
    state: TrainState,
    windows: UInt16[Array, "S B W"],
    *,
    module: CausalLM,
    cfg: TrainConfig,
) -> tuple[TrainState, dict[str, Float[Array, "S"]]]:
    """Takes S optimiser steps, one on each batch; `state` is donated.

    Returns:
      The new state, and for every step `loss` (nats per token, before the update) and
      `grad_norm` (before clipping).
    """
    tx = optimizer(module, cfg)
    loss_and_grad = jax.value_and_grad(
        functools.partial(mean_loss, module=module, dtype=DTYPES[cfg.dtype])
    )

    def step(state: TrainState, batch):
        loss, grads = loss_and_grad(state.params, batch.astype(jnp.int32))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, state.step + 1), metrics

    return jax.lax.scan(step, state, windows)
