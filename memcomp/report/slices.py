"""Reports of steps compiled for a TPU slice: a line, a table, and advice if too large."""

from collections.abc import Sequence

from memcomp.cost.chips import CHIPS, Roofline, Slice
from memcomp.cost.work import Buffer, Memory
from memcomp.report.table_format import Table
from memcomp.runs.files import Record

GIB = 2**30
FULL = 0.95  # usable share of the memory; the compiler reserves the rest


def shortage(
    memory: Memory,
    rows: int,
    parts: int,
    part: Slice,
    largest: Sequence[Buffer],
    smaller: str,
) -> str:
    """A sentence with the memory that a program needs, its largest buffers, and advice.

    Args:
      memory: memory that it would need on each chip.
      rows: number of texts or windows on all chips at once.
      parts: number of shards that they are divided into.
      part: the slice that it does not fit.
      largest: its largest arrays.
      smaller: advice for fewer texts or windows at once.
    """
    hbm = part.chip.hbm_bytes
    names = ", ".join(
        f"{b.num_bytes / GIB:.2g} GiB {b.shape} of {b.made_by}" for b in largest
    )
    each = memory.temporary / (rows // parts)
    fitting = int((FULL * hbm - memory.arguments) // each)
    if memory.arguments > FULL * hbm:
        change = "raise mesh.fsdp or mesh.tensor, which cut weights"
    elif fitting >= 1:
        change = f"{smaller}, so that {fitting * parts} or fewer are in flight"
    else:
        change = (
            "one text alone is too large: take chips with more memory or raise mesh.tensor"
        )
    return (
        f"needs {memory.total / GIB:.1f} GiB a chip where {part} has {hbm / GIB:.0f}: "
        f"arguments {memory.arguments / GIB:.1f}, temporaries {memory.temporary / GIB:.1f} "
        f"with {rows // parts} of {rows} rows; largest: {names}; {change}"
    )


def said(record: Record) -> str:
    """Returns a line about one program."""
    begin = f"{record['program']} on {record['slice']}: {record['compile_seconds']:.0f} s"
    if record["problem"]:
        return f"{begin}, {record['problem']}"
    held, times = record["memory_bytes"], Roofline(**record["roofline_seconds"])
    hbm = record["hbm_bytes"] / GIB
    return (
        f"{begin}, {held['total'] / GIB:.2f} of {hbm:.0f} GiB a chip, "
        f"{record['flops']:.3g} FLOPs, {record['bytes']:.3g} bytes, "
        f"collectives {_collectives(record) or 'none'}; a step takes {_ms(times.seconds)} "
        f"or more ({times.bound})"
    )


def compile_table(records: Sequence[Record]) -> Table:
    """Makes a table with a line per program; memory and work are per chip and step."""
    notes = [
        "GiB, FLOPs and bytes are those of one chip in one step. Products are the FLOPs of "
        "matrix products, with loops multiplied out; for cramming, the next column divides "
        "them by 4 x parameters x tokens.",
        "A step takes at least as long as the longest of its products, its HBM traffic and "
        f"its collectives at the peak rates (FLOPs, HBM, links, HBM size): {_rates()}.",
    ]
    failed = [r for r in records if r["problem"]]
    notes += [f"{r['program']} {r['problem']}." for r in failed]
    title = "Steps compiled for their slices"
    return Table(title, [_row(r) for r in records], tuple(notes))


def _row(record: Record) -> Record:
    row = {
        "program": record["program"],
        "slice": record["slice"],
        "mesh": " ".join(f"{k} {v}" for k, v in record["mesh"].items() if v != 1),
        "dtype": record["dtype"],
        "rows x tokens": f"{record['rows']} x {record['num_tokens']}",
        "compile, s": f"{record['compile_seconds']:.0f}",
    }
    if record["problem"]:
        return row | {"of HBM": "see below"}
    held, times = record["memory_bytes"], Roofline(**record["roofline_seconds"])
    share = held["total"] / record["hbm_bytes"]
    row |= {
        "arguments, GiB": _gib(held["arguments"]),
        "temporaries, GiB": _gib(held["temporary"]),
        "results, GiB": _gib(held["results"]),
        "of HBM": f"{100 * share:.0f} %",
        "products, FLOPs": f"{record['flops']:.3g}",
    }
    if record["program"].startswith("cram/"):
        tokens = record["rows"] * record["num_tokens"] / record["chips"]
        row["/ 4 N T"] = f"{record['flops'] / (4 * record['num_params'] * tokens):.2f}"
    return row | {
        "HBM, bytes": f"{record['bytes']:.3g}",
        "collectives": _collectives(record),
        "step, at least": _ms(times.seconds),
        "bound by": times.bound,
    }


def _collectives(record: Record) -> str:
    return ", ".join(
        f"{kind} {c['count']} of {c['num_bytes'] / 1e6:.3g} MB"
        for kind, c in record["collectives"].items()
    )


def _rates() -> str:
    return "; ".join(
        f"{kind} {c.flops / 1e12:.0f} TFLOP/s, {c.hbm_rate / 1e9:.0f} GB/s, "
        f"{c.link_rate / 1e9:.0f} GB/s, {c.hbm_bytes / GIB:.0f} GiB"
        for kind, c in CHIPS.items()
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
