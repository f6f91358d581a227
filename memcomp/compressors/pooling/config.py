"""`PoolingConfig`: the size of mean pooling, as a frozen dataclass."""

import dataclasses

from memcomp.ranges import check_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """Size of mean pooling.

    Attributes:
      num_digests: number of vectors of a chunk (M).

    Raises:
      InputError: the number is below 1 or not whole.
    """

    num_digests: int = 128

    def __post_init__(self):
        check_count("num_digests", self.num_digests)
