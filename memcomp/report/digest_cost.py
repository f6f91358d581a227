"""Table and figure of the compressors' cost over the length of the context."""

from collections.abc import Iterator, Sequence

from memcomp.compressors.gradmem import GradMem
from memcomp.compressors.icae import ICAE
from memcomp.compressors.icformer.model import ICFormer
from memcomp.cost.formulas import compiled_flops, compress_flops
from memcomp.report.style import COLOURS, Drawn, panels, tick_lengths
from memcomp.report.table_format import Table
from memcomp.runs.files import Record

NAMES = {ICFormer: "IC-Former", ICAE: "ICAE", GradMem: "GradMem"}


def cost_records(
    compressors: Sequence[ICFormer | ICAE | GradMem],
    contexts: Sequence[int],
    max_chunk: int,
) -> Iterator[Record]:
    """Counts FLOPs for each context and compressor, as a whole and in chunks if longer.

    Yields:
      Records with `context` and `chunk` in tokens; `flops` by the formula; `adapters`, the
      FLOPs that it leaves out; `compiled`, the compiler's count of all.
    """
    for context in contexts:
        num_chunks = -(-context // max_chunk)
        for parts in sorted({1, num_chunks}):
            chunk = -(-context // parts)
            for compressor in compressors:
                flops = compress_flops(compressor, chunk) * parts
                yield {
                    "compressor": NAMES[type(compressor)],
                    "context": context,
                    "chunk": chunk,
                    "in_chunks": parts == num_chunks,
                    "whole": parts == 1,
                    "flops": flops.published,
                    "adapters": flops.adapters,
                    "compiled": compiled_flops(compressor, chunk, num_chunks=parts),
                }


def cost_table(records: Sequence[Record]) -> Table:
    """Makes a table with a line per context and chunk: all compressors, and one ratio."""
    found: dict[tuple[int, int], dict[str, Record]] = {}
    for record in records:
        key = record["context"], record["chunk"]
        found.setdefault(key, {})[record["compressor"]] = record
    rows = []
    for (context, chunk), of in found.items():
        row = {"tokens": context, "a chunk": chunk}
        for field, name in ("flops", "formula"), ("compiled", "compiler"):
            icae, icformer = of["ICAE"][field], of["IC-Former"][field]
            row |= {
                f"ICAE, {name}": f"{icae:.4g}",
                f"IC-Former, {name}": f"{icformer:.4g}",
                f"ratio, {name}": f"{icae / icformer:.2f}",
                f"GradMem, {name}": f"{of['GradMem'][field]:.4g}",
            }
        rows.append(row)
    notes = (
        "Formula: matrix products alone, as published of ICAE and IC-Former. Compiler: all "
        "operations, those of ICAE's adapters included. The ratio is ICAE / IC-Former.",
    )
    return Table("FLOPs of compressing one context", rows, notes)


def cost_figure(records: Sequence[Record]) -> Drawn:
    """Draws the compiler's FLOPs over the length of the context: whole and in chunks."""
    figure, (left, right) = panels(2)
    for axis, way in (left, "whole"), (right, "in_chunks"):
        for name, colour in zip(NAMES.values(), COLOURS, strict=False):
            mine = [r for r in records if r["compressor"] == name and r[way]]
            x = [r["context"] for r in mine]
            axis.plot(x, [r["compiled"] for r in mine], "o-", color=colour, label=name)
        axis.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel="FLOPs")
        axis.set_title("in one piece" if way == "whole" else "in chunks", loc="left")
        tick_lengths(axis, [r["context"] for r in records], most=5)
    right.sharey(left)
    left.legend(frameon=False)
    head = ("compressor", "context", "chunk", "flops", "adapters", "compiled")
    return Drawn(
        title="What compressing a context costs",
        caption="FLOPs by the compiler's count, over the length of the context.",
        figure=figure,
        head=head,
        rows=[[record[name] for name in head] for record in records],
    )
