"""`ICAEConfig`: the sizes of ICAE's trainable part, as a frozen dataclass."""

import dataclasses

from memcomp.errors import InputError

SLOT_INITS = ("normal", "zeros")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ICAEConfig:
    """Sizes of ICAE; the defaults are the published ones.

    There are two differences from the authors' training. Their adapters have a dropout of
    0.05, and ours have none. They draw the vectors AE and FT from N(0, 1), in one table
    with the slots; ours begin at 0, as IC-Former's do.

    Attributes:
      num_digests: number of memory slots of a chunk (M).
      rank: rank of the adapters (R).
      alpha: the adapters' products are multiplied by alpha / rank.
      slot_init: initialisation of the vectors that the LM reads in the slots: "normal" with
        a standard deviation of 1, or "zeros", as in the replica that IC-Former was
        compared with.
      bidirectional: whether the tokens of a chunk see each other in both directions while
        it is compressed. The slots still see only the chunk and the slots before them.
        False, as published, keeps the LM's causal mask.

    Raises:
      InputError: a value is out of its range.

    Source: Ge et al. 2024, arXiv:2307.06945, section 3.1 and table 8.
    """

    num_digests: int = 128
    rank: int = 128
    alpha: float = 32.0
    slot_init: str = "normal"
    bidirectional: bool = False

    def __post_init__(self):
        for name in ("num_digests", "rank"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is {value!r}; give a whole number from 1")
        if not isinstance(self.alpha, int | float) or not self.alpha > 0:
            raise InputError(f"alpha is {self.alpha!r}; give a number above 0")
        if self.slot_init not in SLOT_INITS:
            raise InputError(
                f"slot_init {self.slot_init!r} is not one of {', '.join(SLOT_INITS)}"
            )
