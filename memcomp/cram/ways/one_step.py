"""`one_step`: memory is vectors from which one forward pass gives the whole text."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from memcomp.cram.ways.way import Way
from memcomp.errors import InputError
from memcomp.lm.protocol import embed, hidden_states, logits_of
from memcomp.lm.score import in_turn


@dataclasses.dataclass(frozen=True)
class OneStep(Way):
    """Vectors e_1 ... e_K and m: the LM reads [e_1 ... e_K, m, m ...], and no token.

    Output i predicts token i, with outputs counted from the first vector, or from the first
    m. The rows of the memory are the K vectors and then m.

    Attributes:
      after: whether the outputs of the vectors e predict nothing, so that the LM reads one
        m a token: the arrangement [e][m]xN, and otherwise [e][m]x(N-1).
      begins: whether the LM reads its start token first.

    Source: Mezentsev and Oseledets 2025, arXiv:2505.21189, with K = 1.
    """

    after: bool = False
    begins: bool = False
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reference": {"patience": 5000, "init": "fixed_normal", "init_scale": 1.0},
        # All tokens are read from the same m. They stay right only if they stay likely, so
        # that the loss is the cross-entropy, and sure tokens weigh as much as others.
        "default": {
            "learning_rate": 0.7,
            "unit_rate": False,
            "weight_decay": 0.01,
            "init": "normal",
            "init_scale": 1.0,
            "loss": "cross_entropy",
            "ahead": 0,
            "sure_weight": 1.0,
            "easy": 0.0,
            "stuck_after": 0,
        },
    }
    gives_tokens: ClassVar[bool] = False

    def rows(self, num_memory: int) -> int:
        """K vectors and m."""
        return num_memory + 1

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """One a token, in the arrangement `after` one for each e, and the start."""
        length = num_tokens + num_memory if self.after else max(num_tokens, num_memory)
        return self.begins + length

    def of_tokens(self, params, tokens, *, module):
        """No real tokens mean what these vectors mean."""
        raise InputError("one_step cannot start from tokens; choose another init")

    def inputs(self, params, memory, tokens, start, *, module):
        """[e_1 ... e_K, m, m ...], without a cache."""
        first = embed(params, jnp.full((1, 1), start), module=module)
        return self._read(first, memory, len(tokens)), None

    def before(self, memory, start):
        """Nothing, as no text is read."""
        raise InputError(
            "in the way one_step the LM reads no text, so that nothing can follow its "
            "memory; use memory of vectors or cache"
        )

    def decode(self, params, memory, given, start, *, module, num_tokens):
        """All tokens from one forward pass."""
        first = embed(params, jnp.full((1, 1), start), module=module)

        def one(rows):
            x = self._read(first, rows, num_tokens)
            hidden = in_turn(hidden_states(params, x, module=module), num_tokens)
            logits = logits_of(params, hidden, module=module)
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.isfinite(logits).all()

        # One text after another, because logits of all texts would need too much memory.
        tokens, finite = jax.lax.map(one, memory)
        return tokens, finite.all()

    def _read(self, first, memory, num_tokens):
        """Rows of input vectors, the last of which predict the tokens."""
        memory = memory.astype(first.dtype)
        e, m = self._apart(memory[:-1]), memory[-1]
        length = -(-num_tokens // len(e))
        x = jnp.concatenate([e, jnp.broadcast_to(m, (len(e), length, len(m)))], axis=1)
        x = x if self.after else x[:, :length]
        if not self.begins:
            return x
        return jnp.concatenate([jnp.broadcast_to(first, x[:, :1].shape), x], axis=1)

    def _apart(self, e):
        """The vectors e of each row."""
        return e[None]


@dataclasses.dataclass(frozen=True)
class SharedOneStep(OneStep):
    """One m for a group of K texts: the LM reads [start token, e_i, m, m ...] for text i.

    Many LMs attend to their first position whatever stands there, and carry next to nothing
    in it. An e there can hardly tell the texts apart; so the start token stands before it.

    Source: Mezentsev and Oseledets 2025, arXiv:2505.21189, without the start token; Xiao et
      al. 2023, arXiv:2309.17453, on the first position.
    """

    begins: bool = True

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reference": OneStep.recipes["reference"],
        # At a constant rate, the accuracy of a group goes up and down.
        "default": {
            **OneStep.recipes["default"],
            "max_steps": 2000,
            "patience": 2000,
            "warmup_steps": 20,
            "schedule": "cosine",
            "init": "fixed_normal",
            "grows": False,
        },
    }

    def num_texts(self, num_memory: int) -> int:
        """One for each e."""
        return num_memory

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """Those of one text."""
        return super().num_positions(1, num_tokens)

    def _apart(self, e):
        """A row for each text."""
        return e[:, None]
