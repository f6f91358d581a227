"""Interface of the frozen language model to the rest of memcomp.

A model family is a Flax module (`CausalLM`); parameters are always passed to it. Only the
functions below and `memcomp.lm.cache.hidden_after` call its `apply`, whose types are
unchecked.

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
        """Frozen config of the family: d_model, vocab_size, max_positions and more."""
        ...

    @property
    def softcap(self) -> float | None:
        """Soft cap c of the logits z, which become c tanh(z / c); None for no cap."""
        ...

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Input vectors of tokens; memory stands in their place.

        They are what transformers calls `inputs_embeds`: after the embedding's own scale,
        before positions are added.
        """
        ...

    def __call__(
        self, x: Float[Array, "B S D"], cache: Cache = None
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Final hidden states of input vectors that follow those in the cache."""
        ...

    def unembedding(self) -> Float[Array, "V D"]:
        """Vector of each token whose product with a hidden state is the token's logit."""
        ...

    def empty_cache(self, batch: int, length: int, dtype: Any) -> Cache:
        """Makes a cache with room for `length` positions."""
        ...

    def init(self, rngs: Any, *args: Any, **options: Any) -> Any:
        """Flax's `init`: fresh parameters, each boxed with its logical axes."""
        ...

    def clone(self, **changes: Any) -> "CausalLM":
        """Flax's `clone`: the same module with other fields."""
        ...

    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Flax's `apply`: calls a method with these variables."""
        ...


def embed(
    params: Params, tokens: Int[Array, "B T"], *, module: CausalLM
) -> Float[Array, "B T D"]:
    """Input vectors of tokens (`CausalLM.embed`)."""
    return module.apply({"params": params}, tokens, method="embed")


def hidden_states(
    params: Params,
    x: Float[Array, "B S D"],
    cache: Cache = None,
    *,
    module: CausalLM,
    adapters: Params | None = None,
    mask: Bool[Array, "L S keys"] | None = None,
    prefix: Int[Array, "B"] | None = None,
) -> Float[Array, "B S D"]:
    """Final hidden states of input vectors.

    Args:
      params: parameters of the LM.
      x: input vectors.
      cache: cache after which they are read; None for the first positions.
      module: the LM's Flax module.
      adapters: adapters of the kernels with the same names (`memcomp.nn.einsum`).
      mask: mask that hides keys, those of the cache first, from queries, for an LM with
        attention (`memcomp.nn.decoder`).
      prefix: number of first positions of each text that see each other in both
        directions, for an LM with attention; None for causal attention throughout.
    """
    variables = {"params": params}
    if adapters is not None:
        variables["adapters"] = adapters
    options = masked(mask) if prefix is None else masked(mask) | {"prefix": prefix}
    hidden, _ = module.apply(variables, x, cache, **options)
    return hidden


def intermediates(
    params: Params,
    x: Float[Array, "B S D"],
    cache: Cache = None,
    *,
    module: CausalLM,
    mask: Bool[Array, "L S keys"] | None = None,
) -> dict[str, Any]:
    """Intermediate values that the layers sow, such as attention probabilities."""
    variables = {"params": params}
    _, state = module.apply(variables, x, cache, **masked(mask), mutable=["intermediates"])
    return state["intermediates"]


def masked(mask: Bool[Array, "L S keys"] | None) -> dict[str, Any]:
    """Returns `mask` as an option, which an LM without attention does not take."""
    return {} if mask is None else {"mask": mask}


def unembedding(params: Params, *, module: CausalLM) -> Float[Array, "V D"]:
    """Vector of each token whose product with a hidden state is the token's logit."""
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
      name: folder, Hub id or "builtin" that it was loaded from.
      module: Flax module, static and hashable.
      config: frozen config of the family.
      params: parameters, a nested dict of arrays in `dtype`.
      tokenizer: tokenizer of transformers; None for a folder without one.
      dtype: dtype of parameters and activations.
      fingerprint: SHA-256 of the parameters as they are in the file, and of the settings of
        config.json that change what they compute (`memcomp.convert.fingerprint`).
      revision: commit of the Hub repository; None for a folder.
      mesh: mesh over which the parameters are sharded; None for one device.
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
        """Calls `program(params, *args, module=module, **options)` within the LM's mesh.

        All programs of the LM run through this method, because JAX refuses an attention
        kernel on several chips outside the mesh of its arrays.
        """
        with on_mesh(self.mesh):
            return program(self.params, *args, module=self.module, **options)

    def logits(self, tokens: Any) -> Float[Array, "B T V"]:
        """Next-token logits in float32 after each prefix of `tokens`.

        Args:
          tokens: token ids [B T].

        Raises:
          InputError: `tokens` are not token ids or exceed the LM's positions, or its logits
            are not finite.
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
        """Raises an `InputError` unless all of `finite`, found for some logits, is True."""
        if not np.all(finite):
            raise InputError(
                f"logits of {self.name} are not finite in {np.dtype(self.dtype).name}; "
                "load it with dtype bfloat16, which has the range of float32, or check "
                "its weights"
            )

    def shuffled(self, seed: int) -> "LanguageModel":
        """Returns a control LM with the entries of each parameter array in random order.

        The scale of each array stays as trained; all else that was learnt is lost.
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
