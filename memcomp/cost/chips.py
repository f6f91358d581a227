"""Kinds of TPU, compilation for their slices, and lower bounds of a program's time.

libtpu compiles programs for the devices of a slice without a TPU.
"""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from memcomp.cost.work import Collective, Work
from memcomp.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specification of one chip. Rates are peaks, which no program reaches.

    Attributes:
      hbm_bytes: size of its main memory in bytes.
      flops: multiplications and additions in bfloat16 per second.
      hbm_rate: bytes per second that main memory reads or writes.
      link_rate: bytes per second that all its links to other chips carry in one direction.
      host: chips of a host along each axis of a topology.
    """

    hbm_bytes: int
    flops: float
    hbm_rate: float
    link_rate: float
    host: tuple[int, int, int]


# Source: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, tables of key specifications, as
# of 2026. They give link rates in Gbit/s for one direction, or in GB/s for both directions
# together, which are halved here.
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1.228e12, 0.3e12, (2, 2, 1)),
    "v5e": Chip(16 * 2**30, 197e12, 0.819e12, 0.2e12, (2, 2, 1)),
    "v5p": Chip(95 * 2**30, 459e12, 2.765e12, 0.6e12, (2, 2, 1)),
    "v6e": Chip(32 * 2**30, 918e12, 1.638e12, 0.4e12, (2, 2, 1)),
}
# How many times a collective sends its bytes, if not once: an all-reduce scatters the sum
# and then gathers it.
SENT = {"all-reduce": 2}


class Slice(NamedTuple):
    """Slice of chips of one kind, such as "v5e:2x4".

    Attributes:
      kind: a key of `CHIPS`.
      shape: number of chips along each axis of the torus.
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """Specification of each chip."""
        return CHIPS[self.kind]

    @property
    def num_chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"


def parse_slice(name: str) -> Slice:
    """Parses the name of a slice, such as "v5e:2x4" or "v5p:2x2x2".

    Raises:
      InputError: the name is not that of a slice.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if found is None or found[1] not in CHIPS:
        raise InputError(
            f"slice {name!r} is no kind of chip ({', '.join(CHIPS)}) with how many along "
            'each axis; give one such as "v5e:2x4"'
        )
    return Slice(found[1], tuple(int(size) for size in found[2].split("x")))


def slice_devices(part: Slice) -> list[Any]:
    """Returns the devices of a slice to compile for; nothing can run on them.

    Raises:
      InputError: libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs libtpu, which is not here; pip install "
            "'memcomp[aot]'"
        )
    whole = (*part.shape, 1)[:3]
    options: dict[str, Any] = {}
    if any(size % of for size, of in zip(whole, part.chip.host, strict=True)):
        options["chips_per_host_bounds"] = whole  # the slice is a part of a host
    if part.kind == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device
    try:
        found = topologies.get_topology_desc(str(part), platform="tpu", **options)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"libtpu makes no slice {part} ({reason}); give one that exists, such as "
            "v5e:2x4"
        ) from error
    return list(found.devices)


class Roofline(NamedTuple):
    """Seconds that each part of the work would take alone at the peak rates.

    Attributes:
      products: time of matrix products.
      memory: time of reads and writes of main memory.
      links: time of collectives.
    """

    products: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """Least time of the whole work, if its three parts overlap fully."""
        return max(self)

    @property
    def bound(self) -> str:
        """Name of the part that takes longest."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]


def roofline(work: Work, chip: Chip) -> Roofline:
    """Least time of the work of one device, where a device is one chip."""
    return Roofline(
        work.flops / chip.flops,
        work.num_bytes / chip.hbm_rate,
        _sent(work.collectives) / chip.link_rate,
    )


def _sent(collectives: Mapping[str, Collective]) -> int:
    return sum(SENT.get(kind, 1) * c.num_bytes for kind, c in collectives.items())
