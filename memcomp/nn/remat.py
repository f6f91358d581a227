"""Rematerialisation: what the backward pass keeps of a layer, and what it recomputes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from memcomp.ranges import check_choice

# Name -> policy for what is kept of each layer besides its input; None keeps all.
# "full" keeps nothing, at the cost of another forward pass. "dots" keeps the results of
# matrix products and recomputes the rest, mainly the attention probabilities.
REMAT: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_remat(name: str) -> None:
    """Raises an `InputError` unless `name` is a key of `REMAT`."""
    check_choice("remat", name, REMAT)


def rematerialised(name: str, layer: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `layer(module, *inputs)` so that the backward pass keeps only what `name` says.

    It is for the body of a scan, where the compiler cannot undo the rematerialisation.
    """
    if name == "none":
        return layer
    return nn.remat(layer, policy=REMAT[name], prevent_cse=False)
