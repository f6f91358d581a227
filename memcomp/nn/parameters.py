"""Parameters that name their axes."""

from collections.abc import Callable, Sequence
from typing import cast

import flax.linen as nn
from jaxtyping import Array


def with_axes(
    init: Callable[..., Array], axes: Sequence[str | None]
) -> Callable[..., Array]:
    """`init`, which also names each dimension by its logical axis.

    What it gives is boxed; `Module.param` takes it out of the box, hence the type.
    """
    return cast(Callable[..., Array], nn.with_logical_partitioning(init, tuple(axes)))
