"""`GradMemConfig`: the sizes and switches of GradMem, as a frozen dataclass."""

import dataclasses

from memcomp.ranges import check_count, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradMemConfig:
    """Sizes and switches of GradMem.

    The defaults are those of the authors' script for text compression. There are three
    differences from their method. Here each step has a rate of its own, which is learnt.
    The LM is the same frozen one for writing and for reading, without adapters and without
    a second unembedding. The projection has no bias, because the start can hold it.

    Attributes:
      num_digests: number of memory vectors of a chunk (M).
      num_steps: number of gradient steps on a chunk (K); with 0, the digests are the start.
      rate: initial learning rate of every step, for the gradient of the mean loss in nats.
      num_second_order: number of steps, counted from the last, whose gradients are
        differentiated again in training; the gradients of the steps before them count as
        constants. None, or `num_steps` or more, for all steps.
      projection: whether the LM reads the memory through a learnt linear map, which starts
        as the identity.
      start_std: standard deviation of the initial start vectors.

    Raises:
      InputError: a value is out of its range.

    Source: GradMem, 2026, arXiv:2603.13875, and its code (github.com/yurakuratov/gradmem).
    """

    num_digests: int = 8
    num_steps: int = 2
    rate: float = 0.08
    num_second_order: int | None = None
    projection: bool = False
    start_std: float = 0.02

    def __post_init__(self):
        check_count("num_digests", self.num_digests)
        check_count("num_steps", self.num_steps, least=0)
        check_number("rate", self.rate, above=0)
        check_number("start_std", self.start_std)
        if self.num_second_order is not None:
            check_count("num_second_order", self.num_second_order, least=0)
