"""Parameters with named logical axes."""

from collections.abc import Callable, Sequence
from typing import cast

import flax.linen as nn
from jaxtyping import Array


def with_axes(
    init: Callable[..., Array], axes: Sequence[str | None]
) -> Callable[..., Array]:
    """Wraps `init` so that each dimension of its result names its logical axis.

    The result is boxed; `Module.param` unboxes it, which is why the type says Array.
    """
    return cast(Callable[..., Array], nn.with_logical_partitioning(init, tuple(axes)))
