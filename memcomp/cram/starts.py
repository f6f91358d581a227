"""Cramming that begins with given vectors in place of the recipe's initial memory."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from memcomp.cram.config import CramConfig
from memcomp.cram.loop import CramState, init_state
from memcomp.cram.recipe import optimizer
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import fetch, on_mesh


def states_from(
    lm: LanguageModel, memories: Sequence[Float[np.ndarray, "_ _"]], cfg: CramConfig
) -> list[CramState]:
    """Returns the state of each text before its first step, on the host.

    Args:
      lm: the frozen language model.
      memories: initial memory [M W] of each text.
      cfg: what to cram and how.

    Raises:
      InputError: a memory has another shape than that of the config's way of writing, or
        has values that are not finite.
    """
    wanted = cfg.way.rows(cfg.num_memory), cfg.way.width(lm.module)
    for i, memory in enumerate(memories):
        if np.shape(memory) != wanted or not np.isfinite(memory).all():
            raise InputError(
                f"the start of text {i} is {np.shape(memory)}, or not finite; give finite "
                f"numbers of shape {wanted}, as memory {cfg.memory!r} has for this LM"
            )
    init = functools.partial(init_state, module=lm.module, cfg=cfg.program())
    with on_mesh(lm.mesh):
        tokens = np.zeros(cfg.num_memory, np.int32)
        fresh = fetch(jax.jit(init)(np.int32(0), tokens, lm.params, cfg.numbers()))
    init_optimizer = jax.jit(optimizer(cfg.resolved_recipe()).init)

    def state(memory) -> CramState:
        memory = np.asarray(memory, fresh.memory.dtype)
        opt_state = fetch(init_optimizer(memory))
        return fresh._replace(memory=memory, best_memory=memory, opt_state=opt_state)

    return [state(memory) for memory in memories]
