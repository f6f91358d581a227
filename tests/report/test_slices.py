"""What is said of a program that has been compiled, or that has no room."""

import json
import pathlib

import pytest

from memcomp.cost.chips import parse_slice
from memcomp.cost.work import Buffer, Memory
from memcomp.report.slices import compile_table, said, shortage

ROOT = pathlib.Path(__file__).parents[2]
GIB = 2**30
LARGEST = (Buffer(3 * GIB, "f32[32,1568,1568]", "attn/attend"),)


def record(**changes):
    return {
        "program": "cram/a.py slice=v5e:2x2",
        "slice": "v5e:2x2",
        "chips": 4,
        "hbm_bytes": 16 * GIB,
        "mesh": {"data": 4, "fsdp": 1, "tensor": 1},
        "dtype": "bfloat16",
        "num_params": 10**9,
        "rows": 8,
        "num_tokens": 100,
        "compile_seconds": 12.3,
        "memory_bytes": Memory(2 * GIB, 5 * GIB, GIB, GIB)._asdict() | {"total": 7 * GIB},
        "flops": 8 * 10**11,
        "bytes": 10**10,
        "collectives": {"all-gather": {"count": 3, "num_bytes": 6e6, "largest": 2e6}},
        "roofline_seconds": {"products": 4e-3, "memory": 1.2e-2, "links": 1e-4},
        "problem": "",
    } | changes


@pytest.mark.parametrize(
    "memory, rows, change",
    [
        (Memory(2 * GIB, 26 * GIB, 0, 0), 16, "lower it, so that 8 or fewer are in flight"),
        (
            Memory(17 * GIB, GIB, 0, 0),
            16,
            "raise mesh.fsdp or mesh.tensor, which cut weights",
        ),
        (Memory(2 * GIB, 26 * GIB, 0, 0), 4, "one text alone is too large"),
    ],
)
def test_what_has_no_room_says_what_is_large_and_what_to_change(memory, rows, change):
    sentence = shortage(memory, rows, 4, parse_slice("v5e:2x2"), LARGEST, "lower it")
    total = memory.arguments + memory.temporary
    assert f"needs {total / GIB:.1f} GiB a chip where v5e:2x2 has 16" in sentence
    assert "3 GiB f32[32,1568,1568] of attn/attend" in sentence
    assert change in sentence and "\n" not in sentence


def test_a_row_has_shares_counted_by_hand():
    (row,) = compile_table([record()]).rows
    assert row["of HBM"] == "44 %"  # 7 of 16
    assert row["/ 4 N T"] == "1.00"  # 8e11 / (4 x 1e9 x 8 x 100 / 4)
    assert row["step, at least"] == "12 ms" and row["bound by"] == "memory"
    assert row["collectives"] == "all-gather 3 of 6 MB"
    assert row["mesh"] == "data 4"


def test_a_line_says_it_in_short():
    line = said(record())
    assert "7.00 of 16 GiB a chip" in line and "takes 12 ms or more (memory)" in line
    assert said(record(problem="needs more")).endswith(" 12 s, needs more")


def test_what_has_no_room_is_a_note_below_the_table():
    table = compile_table([record(), record(problem="needs more")])
    assert table.rows[1]["of HBM"] == "see below"
    assert table.notes[-1] == "cram/a.py slice=v5e:2x2 needs more."


def test_the_document_has_the_table_of_its_records():
    lines = (ROOT / "docs/results/compile_check.jsonl").read_text().splitlines()
    table = compile_table([json.loads(line) for line in lines]).markdown()
    page = (ROOT / "docs/compile_table.md").read_text()
    assert " ".join(table.split()) in " ".join(page.split())


def test_every_config_of_the_document_fits():
    lines = (ROOT / "docs/results/compile_check.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    alone = [r for r in records if " " not in r["program"]]
    assert alone and not [r["program"] for r in alone if r["problem"]]
