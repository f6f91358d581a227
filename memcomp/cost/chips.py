"""Kinds of TPU, their slices without the hardware, and the time that a program must take.

A program is compiled for the devices of a slice by libtpu, which needs no TPU for that.
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
    """What one chip has. Rates are peaks, which no program reaches.

    Attributes:
      hbm_bytes: of its main memory.
      flops: products and additions in bfloat16 a second.
      hbm_rate: bytes of main memory read or written a second.
      link_rate: bytes that all its links to other chips carry a second, one way.
      host: chips of a host, in the form that a topology wants it.
    """

    hbm_bytes: int
    flops: float
    hbm_rate: float
    link_rate: float
    host: tuple[int, int, int]


# Source: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, tables of key specifications, as
# of 2026. Their links are in Gbit a second one way, or in GB both ways: halves are here.
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1.228e12, 0.3e12, (2, 2, 1)),
    "v5e": Chip(16 * 2**30, 197e12, 0.819e12, 0.2e12, (2, 2, 1)),
    "v5p": Chip(95 * 2**30, 459e12, 2.765e12, 0.6e12, (2, 2, 1)),
    "v6e": Chip(32 * 2**30, 918e12, 1.638e12, 0.4e12, (2, 2, 1)),
}
# A collective sends this many times its bytes: a sum is scattered, and then gathered.
SENT = {"all-reduce": 2}


class Slice(NamedTuple):
    """Some chips of a kind, such as "v5e:2x4".

    Attributes:
      kind: a key of `CHIPS`.
      shape: chips along each axis of the torus.
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """Each of them."""
        return CHIPS[self.kind]

    @property
    def num_chips(self) -> int:
        """All of them."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"


def parse_slice(name: str) -> Slice:
    """The slice of a name such as "v5e:2x4" or "v5p:2x2x2".

    Raises:
      InputError: no such name.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if found is None or found[1] not in CHIPS:
        raise InputError(
            f"slice {name!r} is no kind of chip ({', '.join(CHIPS)}) with how many along "
            'each axis; give one such as "v5e:2x4"'
        )
    return Slice(found[1], tuple(int(size) for size in found[2].split("x")))


def slice_devices(part: Slice) -> list[Any]:
    """Devices to compile for; nothing runs on them.

    Raises:
      InputError: no libtpu, or one that does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs libtpu, which is not here; pip install "
            "'memcomp[aot]'"
        )
    whole = (*part.shape, 1)[:3]
    options: dict[str, Any] = {}
    if any(size % of for size, of in zip(whole, part.chip.host, strict=True)):
        options["chips_per_host_bounds"] = whole  # a part of a host
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
    """Seconds that a part of the work takes at the peak rates, if it were all.

    Attributes:
      products: of matrices.
      memory: reads and writes of main memory.
      links: collectives.
    """

    products: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """What the whole takes at the least, all three at once."""
        return max(self)

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]


def roofline(work: Work, chip: Chip) -> Roofline:
    """Least time of the work of one device, which is one chip."""
    return Roofline(
        work.flops / chip.flops,
        work.num_bytes / chip.hbm_rate,
        _sent(work.collectives) / chip.link_rate,
    )


def _sent(collectives: Mapping[str, Collective]) -> int:
    return sum(SENT.get(kind, 1) * c.num_bytes for kind, c in collectives.items())
