"""What the rest of memcomp sees of a frozen language model, and how it is asked.

A model family is a Flax module (`CausalLM`); weights are always passed to it. The functions
below are the only callers of `apply`, so that their types are checked everywhere else.

Letters: B texts, T tokens, S positions, D d_model, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.data.tokens import checked_ids
from memcomp.errors import InputError
from memcomp.nn.cross_entropy import soft_capped
from memcomp.sharding import fetch, on_mesh

Params = Any  # a nested dict of arrays
Cache = Any  # a pytree: keys and values, or states
Result = TypeVar("Result")


@runtime_checkable  # the tests check annotations
class CausalLM(Protocol):
    """A Flax module of a model family.

    Modules are hashable and go into jitted functions as static arguments.
    """

    @property
    def config(self) -> Any:
        """The family's frozen config: d_model, vocab_size, max_positions and more."""
        ...

    @property
    def softcap(self) -> float | None:
        """Logits z are read as c tanh(z / c); None: as they are."""
        ...

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors that stand for tokens, of the kind that memory is.

        They are what transformers calls `inputs_embeds`: after the embedding's own scale,
        before positions are added.
        """
        ...

    def __call__(
        self, x: Float[Array, "B S D"], cache: Cache = None
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Final hidden states of input vectors that follow what is in the cache."""
        ...

    def unembedding(self) -> Float[Array, "V D"]:
        """Rows whose product with a hidden state is a token's logit."""
        ...

    def empty_cache(self, batch: int, length: int, dtype: Any) -> Cache:
        """A cache with room for `length` positions."""
        ...

    def init(self, rngs: Any, *args: Any, **options: Any) -> Any:
        """Flax's own: fresh parameters, each boxed with its logical axes."""
        ...

    def clone(self, **changes: Any) -> "CausalLM":
        """Flax's own: the same module with other fields."""
        ...

    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Flax's own: calls a method with these variables."""
        ...


def embed(
    params: Params, tokens: Int[Array, "B T"], *, module: CausalLM
) -> Float[Array, "B T D"]:
    """The input vectors of tokens (`CausalLM.embed`)."""
    return module.apply({"params": params}, tokens, method="embed")


def hidden_states(
    params: Params,
    x: Float[Array, "B S D"],
    *,
    module: CausalLM,
    adapters: Params | None = None,
    mask: Bool[Array, "L S S"] | None = None,
) -> Float[Array, "B S D"]:
    """Final hidden states of input vectors that stand at the first positions.

    Args:
      params: of the LM.
      x: the input vectors.
      module: of the LM.
      adapters: are added to the kernels of the same names (`memcomp.nn.einsum`).
      mask: hides keys from queries, of an LM with attention (`memcomp.nn.decoder`).
    """
    variables = {"params": params}
    if adapters is not None:
        variables["adapters"] = adapters
    hidden, _ = module.apply(variables, x, **_masked(mask))
    return hidden


def intermediates(
    params: Params,
    x: Float[Array, "B S D"],
    *,
    module: CausalLM,
    mask: Bool[Array, "L S S"] | None = None,
) -> dict[str, Any]:
    """What the layers put by for whoever asks, such as attention probabilities."""
    variables = {"params": params}
    _, state = module.apply(variables, x, **_masked(mask), mutable=["intermediates"])
    return state["intermediates"]


def _masked(mask: Bool[Array, "L S S"] | None) -> dict[str, Any]:
    """The argument of an LM with attention; an LM without has none of this name."""
    return {} if mask is None else {"mask": mask}


def unembedding(params: Params, *, module: CausalLM) -> Float[Array, "V D"]:
    """Rows whose product with a hidden state is a token's logit."""
    return module.apply({"params": params}, method="unembedding")


def logits_of(
    params: Params, hidden: Float[Array, "*B D"], *, module: CausalLM
) -> Float[Array, "*B V"]:
    """Next-token logits in float32 of final hidden states."""
    rows = unembedding(params, module=module)
    logits = jnp.einsum("...d,vd->...v", hidden, rows, preferred_element_type=jnp.float32)
    return soft_capped(logits, module.softcap)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A frozen language model.

    Attributes:
      name: the folder, Hub id or "builtin" that it was loaded from.
      module: the Flax module, static and hashable.
      config: the family's frozen config.
      params: nested dict of arrays in `dtype`.
      tokenizer: a transformers tokenizer; None for a folder without one.
      dtype: of weights and activations.
      fingerprint: SHA-256 of the weights as they are in the file, and of the settings of
        config.json that change what they compute (`memcomp.convert.fingerprint`).
      revision: commit of the Hub repository; None for a folder.
      mesh: that the weights lie on; None for one device.
    """

    name: str
    module: CausalLM
    config: Any
    params: Params = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    dtype: Any
    fingerprint: str
    revision: str | None = None
    mesh: jax.sharding.Mesh | None = None

    def run(self, program: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """`program(params, *args, module=module, **options)`, within the mesh of the LM.

        Outside the mesh of its arrays JAX refuses an attention kernel on several chips, so
        that whoever runs a program of the LM does it here.
        """
        with on_mesh(self.mesh):
            return program(self.params, *args, module=self.module, **options)

    def logits(self, tokens: Any) -> Float[Array, "B T V"]:
        """Next-token logits in float32 after each prefix of `tokens`.

        Args:
          tokens: integers [B T].

        Raises:
          InputError: no token ids, more than the LM has positions for, or logits that are
            not finite.
        """
        tokens = checked_ids("tokens", tokens, self.config.vocab_size, axes=2)
        learned = getattr(self.config, "num_position_rows", None) is not None
        if not tokens.size or (learned and tokens.shape[1] > self.config.max_positions):
            raise InputError(
                f"tokens are [B T] = {list(tokens.shape)}; give at least one text of 1 to "
                f"{self.config.max_positions} tokens"
            )
        logits, finite = self.run(_logits, tokens)
        self.check_finite(fetch(finite))
        return logits

    def check_finite(self, finite: Any) -> None:
        """Raises an `InputError` unless `finite`, which is said of logits, is true."""
        if not np.all(finite):
            raise InputError(
                f"logits of {self.name} are not finite in {np.dtype(self.dtype).name}; "
                "load it with dtype bfloat16, which has the range of float32, or check "
                "its weights"
            )

    def shuffled(self, seed: int) -> "LanguageModel":
        """The control: the same LM with the entries of each weight array in random order.

        Scales stay as they were trained, and nothing that was learnt does.
        """
        return dataclasses.replace(
            self,
            name=f"{self.name.rstrip('/')}-shuffled{seed}",
            params=_shuffled(self.params, seed),
            fingerprint=f"{self.fingerprint}-shuffled{seed}",
        )


@functools.partial(jax.jit, static_argnames="module")
def _logits(
    params: Params, tokens: Int[Array, "B T"], *, module: CausalLM
) -> tuple[Float[Array, "B T V"], Bool[Array, ""]]:
    hidden = hidden_states(params, embed(params, tokens, module=module), module=module)
    logits = logits_of(params, hidden, module=module)
    return logits, jnp.isfinite(logits).all()


def _shuffled(params: Params, seed: int) -> Params:
    def shuffle(params: Params) -> Params:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        moved = [
            jax.random.permutation(key, leaf.ravel()).reshape(leaf.shape)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, moved)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(shuffle, out_shardings=shardings)(params)
