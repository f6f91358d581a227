"""Tables: hand-counted rows, published numbers beside, three ways to write them."""

import csv
import io

import pytest
from synthetic_runs import (
    BUILTIN,
    PYTHIA,
    SMOLLM2,
    config,
    make_compression,
    make_horizons,
    write_run,
)

from memcomp.metrics.capacity import Capacity, Estimate
from memcomp.report.load import read_runs
from memcomp.report.published import published_attention, published_horizons
from memcomp.report.section import sections
from memcomp.report.table_format import Table, show
from memcomp.report.tables import TABLES


def a_line(text_id, T, accuracy, gain, protocol="reference", **changes):
    line = {
        "text_id": text_id,
        "seed_id": text_id,
        "source": "pg19",
        "num_tokens": T,
        "num_memory": 1,
        "memory": "vectors",
        "num_parameters": 768,
        "protocol": protocol,
        "accuracy": accuracy,
        "exact_teacher_forced": accuracy == 1,
        "exact_greedy": accuracy == 1,
        "exact_greedy_bfloat16": accuracy == 1,
        "steps": 10,
        "loss_nats": 1.0,
        "baseline_loss_nats": 1.0 + gain / T,
        "baseline_accuracy": 0.25,
        "information_gain_nats": gain,
        "token_gain": (accuracy - 0.25) * T,
        "num_bytes": 4 * T,
    }
    return line | changes


@pytest.fixture()
def two_protocols(tmp_path):
    """Two texts at two lengths, the longer of which fails, in both protocols."""
    for protocol in ("reference", "strict"):
        lines = [
            a_line(i, T, accuracy, gain, protocol)
            for i, T, accuracy, gain in (
                (0, 64, 1, 150),
                (1, 64, 1, 170),
                (0, 128, 0.75, 300),
                (1, 128, 0.5, 340),
            )
        ]
        about = config(PYTHIA, "pg19", 1, protocol, recipe="reference")
        write_run(tmp_path / protocol, about, lines)
    return {s.protocol: s for s in sections(read_runs([tmp_path]))}


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_table_1_has_ours_beside_the_published(two_protocols):
    table = TABLES["table_1"](two_protocols["reference"])
    first, second, *rest = rows_of(table)
    assert (first["LM"], first["published Max"], first["Max tokens"]) == (
        "Pythia-160M",
        "80",
        "64",
    )
    assert first["published Gain"] == "70.9 ± 11.0"
    # Gains of the failed: (0.75 - 0.25) 128 = 64 and 32.
    assert (first["Gain n"], first["Gain mean"]) == ("2", "48")
    assert (first["IG, nats mean"], first["IG, bits mean"]) == ("320", "461.662")
    assert first["Gain standard_error"] == "16"
    # No run, so nothing of ours.
    assert second["source"] == "fanfics" and second["published Max"] == "80"
    assert not second["Max tokens"] and not second["Gain mean"]
    assert len(rest) == 16 and {row["LM"] for row in rest} >= {"Llama-3.1-8B"}


def test_strict_runs_stand_beside_no_published_number(two_protocols):
    strict = two_protocols["strict"]
    for name, make in TABLES.items():
        table = make(strict)
        if table:
            assert "publish" not in table.csv() + table.markdown() + table.html(), name
            assert {row["protocol"] for row in rows_of(table)} == {"strict"}


def test_every_table_says_with_what_it_was_made(two_protocols):
    for section in two_protocols.values():
        for name in ("table_1", "capacity", "lengths", "file_sizes", "runs"):
            text = TABLES[name](section).markdown()
            for word in (section.protocol, "Pythia-160M", "50f5173d", "reference", "cpu"):
                assert word in text, name


def test_capacity_has_all_metrics(two_protocols):
    (row,) = rows_of(TABLES["capacity"](two_protocols["reference"]))
    assert (row["Max, accuracy tokens"], row["Max, exact tokens"]) == ("64", "64")
    assert float(row["bound, tokens"]) == pytest.approx(786.8, abs=0.05)
    assert float(row["utilisation, tokens mean"]) == pytest.approx(48 / 786.8, rel=1e-3)
    assert float(row["bits a dimension mean"]) == pytest.approx(461.662 / 768, rel=1e-4)
    assert float(row["offset, nats mean"]) == -320
    assert row["IG, longest, nats mean"] == "320" and row["tokens a vector"] == "64"


def test_lengths_are_over_all_texts_with_the_published_accuracy(two_protocols):
    short, long = rows_of(TABLES["lengths"](two_protocols["reference"]))
    assert (short["tokens"], short["accuracy mean"], short["exact mean"]) == (
        "64",
        "1",
        "1",
    )
    assert (long["accuracy mean"], long["exact mean"]) == ("0.625", "0")
    assert long["published accuracy"] == "0.885197"
    assert long["CE without, nats mean"] == str(128 + 320)


def test_file_sizes_are_at_the_capacity_beside_compressors(tmp_path, two_protocols):
    (row,) = rows_of(TABLES["file_sizes"](two_protocols["strict"]))
    assert float(row["memory, float32 mean"]) == pytest.approx(4 * 64 / (4 * 768), rel=1e-5)
    assert "zlib mean" not in row
    make_compression(tmp_path / "files")
    lines = [a_line(0, 64, 1, 150, "strict", source="novels")]
    write_run(tmp_path / "novels", config(BUILTIN, "novels", 1, "strict"), lines)
    strict, _, other = sections(read_runs([tmp_path]))
    rows = rows_of(TABLES["file_sizes"](strict))
    assert {row["source"]: bool(row["zlib mean"]) for row in rows} == {
        "novels": True,
        "pg19": False,
    }
    rows = rows_of(TABLES["table_4"](other))
    assert rows[0]["published"] == "2.28 ± 0.16" and not rows[0]["ours mean"]
    # Another LM's arithmetic coding is not what was published.
    (row,) = (
        row for row in rows if row["method"].startswith("arith") and row["source"] == "pg19"
    )
    assert row["method"] == "arithmetic, Pythia-160M" and not row["ours mean"]
    assert {row["method"] for row in rows if row["source"] == "novels"} == {
        "zlib",
        "bz2",
        "lzma",
        "huffman",
        "arithmetic, builtin",
    }


def test_horizons_say_how_many_are_lower_bounds(tmp_path):
    lines = [
        {"text_id": i, "seed_id": i, "source": "novels", "num_tokens": 9, "num_memory": 1}
        | {"memory": "vectors"}
        | {"horizon": horizon, "horizon_bits": 10.0 * horizon, "protocol": "strict"}
        | {"failed": failed}
        for i, (horizon, failed) in enumerate([(4, 5), (6, None), (9, None), (9, None)])
    ]
    about = config(BUILTIN, "novels", 1, "strict")
    write_run(tmp_path, about, lines, "horizons.jsonl")
    (section,) = sections(read_runs([tmp_path]))
    (row,) = rows_of(TABLES["horizons"](section))
    assert (row["lower bounds"], row["tokens mean"]) == ("3", "7")
    assert (row["median bits"], row["recipe"], row["bits n"]) == ("75", "default", "4")


def test_published_horizons_stand_beside_ours_of_the_same_recipe(tmp_path):
    for recipe in ("default", "progressive"):
        make_horizons(tmp_path / recipe, "novels", SMOLLM2, num_texts=4, recipe=recipe)
    (section,) = sections(read_runs([tmp_path]))
    rows = {row["recipe"]: row for row in rows_of(TABLES["horizons"](section))}
    assert rows["default"]["published tokens"] == ""
    assert rows["progressive"]["published tokens"] == "38.5 ± 14.1"
    assert rows["progressive"]["published gain, bits"] == "168 ± 66"
    assert float(rows["progressive"]["gain, bits mean"]) > 0
    # What nobody here has run is there too.
    assert rows["low_dim"]["published tokens"] == "77.7 ± 23.2"
    assert rows["low_dim"]["tokens mean"] == "" and rows["low_dim"]["LM"] == "SmolLM2-135M"


@pytest.mark.parametrize(
    "lm, recipe, tokens",
    [
        ("google/gemma-3-270m", "progressive", 71.2),
        ("some/folder/gemma-3-270m/", "progressive", 71.2),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "low_dim, rank 64", 63.5),
        ("EleutherAI/pythia-160m", "low_dim, rank 512", 15.5),
        ("builtin", "progressive", None),
    ],
)
def test_published_horizons_are_found_by_the_last_part_of_a_name(lm, recipe, tokens):
    row = published_horizons(lm).get(recipe)
    assert (row and row.tokens) == tokens


def test_published_attention_is_that_of_the_base_model():
    assert published_attention("a/folder/smollm2-135m-instruct") == 60.8
    assert published_attention("builtin") is None


def test_cells_are_shown_to_the_second_digit_of_their_error():
    assert show(Estimate(9, 426.2345, 79.23, 11.234, 404.12, 448.9)) == (
        "426 ± 11 [404, 449], sd 79, n 9"
    )
    assert show(Estimate(9, 0.99123, 0.02, 0.00123, 0.98, 1.0)).startswith(
        "0.9912 ± 0.0012"
    )
    assert show(Estimate(1, 2.5, None, None, None, None)) == "2.5 n 1"
    assert show(Estimate(0, float("nan"), None, None, None, None)) == show(None) == ""
    assert show(Capacity(64, 9, 32, 64, True, (16, 32))) == (
        "≥ 64 [32, 64], n 9, fails at 16, 32"
    )
    assert show(Capacity(0, 9, 0, 8, False, ())) == "none [0, 8], n 9"


def test_what_all_rows_share_is_said_once_and_texts_are_escaped():
    rows = [{"LM": "<a>", "source": s, "x|y": 1.0, "none": None} for s in ("p", "q")]
    table = Table("A & B", rows, ("n < 3",))
    assert table.split() == ({"LM": "<a>"}, ["source", "x|y"])
    assert "<a>" not in table.html() and "A &amp; B" in table.html()
    assert "x\\|y" in table.markdown() and "LM: <a>" in table.markdown()
    assert table.csv().splitlines()[0] == "LM,source,x|y,none"
