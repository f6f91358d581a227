"""What the backward pass keeps of a layer, and what it computes again."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from memcomp.errors import InputError

# Name -> what is kept of each layer, beside its input; None: all that is needed.
# "full": nothing, for one forward pass more. "dots": the results of its matrix products,
# for the rest of it once more, of which attention's weights are the largest part.
REMAT: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_remat(name: str) -> None:
    """Raises an `InputError` for what is no key of `REMAT`."""
    if name not in REMAT:
        raise InputError(f"remat {name!r} is not one of {', '.join(REMAT)}")


def rematerialised(name: str, layer: Callable[..., Any]) -> Callable[..., Any]:
    """`layer(module, *inputs)`, of which the backward pass keeps what `name` says.

    It is for the body of a scan, whose iterations the compiler does not merge.
    """
    if name == "none":
        return layer
    return nn.remat(layer, policy=REMAT[name], prevent_cse=False)
