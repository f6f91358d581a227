"""`ICFormerConfig`: the sizes and switches of IC-Former, as a frozen dataclass."""

import dataclasses
from typing import Any, NamedTuple

from memcomp.errors import InputError
from memcomp.ranges import check_choice, check_count, check_number

DIGEST_INITS = ("zeros", "normal")


class Sizes(NamedTuple):
    """Sizes of an IC-Former for one LM, with the names of `DecoderConfig`."""

    d_model: int
    d_mlp: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ICFormerConfig:
    """Sizes and switches of IC-Former; the defaults are the published ones.

    Attributes:
      num_digests: number of vectors of a chunk (M).
      num_layers: number of layers (L).
      num_heads: number of heads (N); None for the LM's.
      num_kv_heads: number of kv heads (K), a divisor of N; None for the LM's, or for N if
        `num_heads` is given.
      head_dim: head width (H); None for the LM's.
      d_mlp: MLP width (F); None for the LM's.
      rope_theta: base of the wavelengths of rotary positions.
      norm_eps: eps of all norms.
      digest_init: initialisation of the digests: "zeros", as published, or "normal" with
        the standard deviation of all other weights.
      spread_positions: whether digest i has the position in the middle of the i-th of M
        equal parts of the context; otherwise digests have the positions after it.

    Raises:
      InputError: a value is out of its range.

    Source: Wang et al. 2024, arXiv:2406.13618, table 7. `spread_positions`: Zhao et al.
      2024, arXiv:2409.14364.
    """

    num_digests: int = 128
    num_layers: int = 3
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    d_mlp: int | None = None
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    digest_init: str = "zeros"
    spread_positions: bool = False

    def __post_init__(self):
        for name in ("num_digests", "num_layers", *Sizes._fields[1:]):
            value = getattr(self, name)
            if value is None and name in Sizes._fields:
                continue
            check_count(name, value)
        for name in ("rope_theta", "norm_eps"):
            check_number(name, getattr(self, name), above=0)
        check_choice("digest_init", self.digest_init, DIGEST_INITS)

    def sizes(self, lm_config: Any) -> Sizes:
        """Returns all sizes; those that are None come from the LM.

        Raises:
          InputError: the LM does not have a size, as one without attention has no heads;
            or the numbers of heads or their width do not fit.
        """
        given = {name: getattr(self, name, None) for name in Sizes._fields}
        if given["num_kv_heads"] is None:
            given["num_kv_heads"] = given["num_heads"]
        found: dict[str, Any] = {
            name: getattr(lm_config, name, None) if value is None else value
            for name, value in given.items()
        }
        if missing := [name for name, value in found.items() if value is None]:
            raise InputError(
                f"{type(lm_config).__name__} has no {', '.join(missing)} that IC-Former "
                "could take over; give them in ICFormerConfig"
            )
        sizes = Sizes(**found)
        if sizes.head_dim % 2:
            raise InputError(
                f"heads of width {sizes.head_dim}; rotary positions want an even one"
            )
        if sizes.num_heads % sizes.num_kv_heads:
            raise InputError(
                f"{sizes.num_kv_heads} heads of keys and values; wanted a divisor of the "
                f"{sizes.num_heads} heads"
            )
        return sizes
