"""The tables of a report, by name.

To add one, write a function from a Section to a Table, or to None if the section has no
data for it, and add it to TABLES.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memcomp.metrics.capacity import BITS_PER_NAT, Estimate, estimate_of
from memcomp.report.measures import Measures, context
from memcomp.report.published import (
    SOURCES,
    PublishedHorizon,
    PublishedModel,
    lm_name,
    published,
    published_capacity,
    published_horizons,
    published_lengths,
    published_models,
)
from memcomp.report.section import Section, is_lower_bound
from memcomp.report.table_format import Table

HOW = "mean ± standard error [95% bootstrap interval over texts], sd over texts, n"
PUBLISHED = f"published: {published()['about']['source']}"


def table_1(section: Section) -> Table | None:
    """Capacity and gains of models in the paper's Table 1, and of LMs not in the paper."""
    return _gains(section, 1, "Table 1. Capacity, token gain and information gain")


def table_3(section: Section) -> Table | None:
    """Capacity and gains of the other models of the paper."""
    return _gains(section, 3, "Table 3. The same for the other models")


def _gains(section: Section, number: int, title: str) -> Table | None:
    measures = [m for m in section.fewest_vectors() if m.key.num_memory == 1]
    ours = [m for m in measures if _number_of_table(m) == number]
    rows = [_gain_row(section, m) for m in ours]
    if not rows:
        return None
    if section.is_reference:
        here = {(m.group.label, m.key.source) for m in ours}
        rows += [
            _published_columns(model, source) | {"LM": model.name, "source": source}
            for model in published_models()
            for source in SOURCES
            if model.table == number and (model.name, source) not in here
        ]
        order = {model.name: i for i, model in enumerate(published_models())}
        rows.sort(key=lambda row: order.get(row["LM"], len(order)))
        rows = [r for r in rows if len(r) > 2]  # no source without a number
    notes = [f"Gains: {HOW}, over texts with an accuracy of at most 0.99 at any length."]
    if section.is_reference:
        notes.append(f"{PUBLISHED}; mean ± sd; its gains in bits are in nats.")
    notes.append(_capacity_note(section))
    return Table(title, rows, tuple(notes))


def _number_of_table(m: Measures) -> int:
    return m.group.published.table if m.group.published else 1


def _gain_row(section: Section, m: Measures) -> dict[str, Any]:
    ours = {
        "Max": m.capacity,
        "Gain": m.token_gain,
        "IG, nats": m.information_gain,
        "IG, bits": m.information_gain.times(BITS_PER_NAT),
    }
    if not section.is_reference:
        return m.context() | ours
    columns = [(f"published {name}", name) for name in ours if name != "IG, bits"]
    row = m.context() | dict.fromkeys(name for pair in columns for name in pair)
    known = m.group.published
    beside = _published_columns(known, m.key.source) if known else {}
    return row | ours | beside


def _published_columns(model: PublishedModel, source: str) -> dict[str, Any]:
    row = published_capacity(model.name, source)
    if row is None:
        return {}
    return {
        "published Max": row.max,
        "published Gain": f"{row.gain} ± {row.gain_std}",
        "published IG, nats": f"{row.nats} ± {row.nats_std}",
    }


def _capacity_note(section: Section) -> str:
    what = "the longest length with a mean teacher-forced accuracy of at least 0.99"
    if not section.is_reference:
        what = "the longest length of which 99% of the texts are decoded exactly"
    return (
        f"Max: {what}, in tokens, with its interval over texts; “≥” where nothing longer "
        "was tried."
    )


def capacity(section: Section) -> Table | None:
    """All metrics of capacity, of every group."""
    rows = [_capacity_row(m) for m in section.measures]
    if not rows:
        return None
    notes = (
        f"Gains: {HOW}.",
        "Max: longest length with a mean accuracy of 0.99 (accuracy) or of which 99% of "
        "the texts are decoded exactly (exact). Failed: texts with an accuracy of at "
        "most 0.99, as in the paper. Longest: all texts of the longest length.",
        "Bound: 16 d / log2 V tokens a vector. Offset: b of CE after = CE before + b.",
    )
    return Table("All metrics of capacity", rows, notes)


def _capacity_row(m: Measures) -> dict[str, Any]:
    return m.context() | {
        "Max, accuracy": m.capacity_accuracy,
        "Max, exact": m.capacity_exact,
        "tokens a vector": m.capacity.tokens / m.key.num_memory,
        "Gain, failed": m.token_gain,
        "IG, failed, nats": m.information_gain,
        "IG, failed, bits": m.information_gain.times(BITS_PER_NAT),
        "Gain, longest": m.longest("token_gain"),
        "IG, longest, nats": m.longest("information_gain"),
        "IG, longest, bits": m.longest("information_gain").times(BITS_PER_NAT),
        "bound, tokens": m.bound,
        "utilisation, tokens": m.utilisation,
        "bits a dimension": m.bits_per_dimension,
        "share of 16 bits": m.bits_per_dimension.times(1 / 16),
        "offset, nats": m.offset,
        "offset, bits": m.offset.times(BITS_PER_NAT),
    }


def file_sizes(section: Section) -> Table | None:
    """Compression in bytes at the capacity, compared with classical compressors."""
    classical = _compression(section)
    rows = []
    for m in section.measures:
        if not m.byte_ratios:
            continue
        row = m.context() | {"tokens": m.capacity.tokens}
        row |= {f"memory, {name}": ratio for name, ratio in m.byte_ratios.items()}
        rounded = m.by_length["exact_greedy_bfloat16"]
        row["exact in bfloat16"] = rounded.get(m.capacity.tokens)
        for (method, source), ratio in classical.items():
            if source == m.key.source:
                row[method] = ratio
        rows.append(row)
    if not rows:
        return None
    notes = (
        f"Bytes of the text over bytes of its file: {HOW}.",
        "Memory: at the capacity of the protocol. The size is that of the format; whether "
        "texts survive it is measured for bfloat16 only.",
    )
    return Table("Compression in bytes", rows, notes)


def lengths(section: Section) -> Table | None:
    """Accuracy, exact rate and cross-entropy at each length, over all texts."""
    rows = [row for m in section.measures for row in _length_rows(section, m)]
    if not rows:
        return None
    notes = [f"{HOW}; all texts of a length, nothing is conditioned on."]
    if section.is_reference:
        notes.append(f"{PUBLISHED}, {published()['about']['lengths']}.")
    return Table("Accuracy and information over length", rows, tuple(notes))


def _length_rows(section: Section, m: Measures) -> list[dict[str, Any]]:
    beside = {}
    if section.is_reference and m.group.published and m.key.num_memory == 1:
        beside = published_lengths(m.group.published, m.key.source)
    rows = []
    for length in m.by_length["accuracy"]:
        at = {name: found[length] for name, found in m.by_length.items()}
        row = m.context() | {
            "tokens": length,
            "accuracy": at["accuracy"],
            "exact": at["exact_greedy"],
            "accuracy without": at["baseline_accuracy"],
            "loss, nats a token": at["loss"],
            "loss without, nats a token": at["baseline_loss"],
        }
        if section.is_reference:
            known = beside.get(length, {})
            row["published accuracy"] = known.get("accuracy")
            row["published loss, nats a token"] = known.get("loss_nats")
            row["published loss without, nats a token"] = known.get("baseline_loss_nats")
        row |= {
            f"{title}, {unit}": at[name].times(factor)
            for name, title in (
                ("before", "CE without"),
                ("after", "CE with"),
                ("information_gain", "IG"),
            )
            for unit, factor in (("nats", 1.0), ("bits", BITS_PER_NAT))
        }
        rows.append(row | {"Gain": at["token_gain"]})
    return rows


def horizons(section: Section) -> Table | None:
    """The longest exact prefix of each text, in tokens and in bits of surprise."""
    groups = collections.defaultdict(list)
    for record in section.horizons:
        groups[record["key"]].append(record)
    rows = []
    for key, records in sorted(groups.items()):
        hardware = ", ".join(dict.fromkeys(r["hardware"] for r in records))
        row = context(key, hardware)
        row["lower bounds"] = sum(map(is_lower_bound, records))
        for title, name in HORIZON_FIGURES.items():
            row[title] = estimate_of(records, name)
            values = [r.get(name, np.nan) for r in records]
            row[f"median {title}"] = float(np.median(values))
        if key.num_memory == 1:
            row |= _published_horizon(published_horizons(key.lm).get(key.recipe))
        rows.append(row)
    if not rows:
        return None
    here = {(lm_name(key.lm), key.recipe) for key in groups}
    for lm in dict.fromkeys(key.lm for key in sorted(groups)):
        rows += [
            {"LM": lm_name(row.lm), "recipe": recipe} | _published_horizon(row)
            for recipe, row in published_horizons(lm).items()
            if (lm_name(lm), recipe) not in here
        ]
    notes = (
        f"The longest prefix of a text that comes back exactly: {HOW}.",
        "Bits: the prefix's surprise for the LM without memory. Gain: what memory saves of "
        "them.",
        "Lower bounds: texts that are exact to their end, or were still growing when the "
        "run was stopped. The true means are then higher.",
        f"Published, mean ± sd: {published()['about']['horizons']}. An instruction-tuned "
        "LM stands beside its base model's numbers.",
    )
    return Table("Horizons", rows, notes)


# Title of a column -> field of a record.
HORIZON_FIGURES = {
    "tokens": "horizon",
    "bits": "horizon_bits",
    "gain, bits": "information_gain_bits",
}


def _published_horizon(row: PublishedHorizon | None) -> dict[str, str]:
    """Columns with the published numbers; none if nothing was published."""
    if row is None:
        return {}
    return {
        f"published {title}": str(mean) if std is None else f"{mean} ± {std}"
        for title, mean, std in (
            ("tokens", row.tokens, row.tokens_std),
            ("gain, bits", row.bits, row.bits_std),
        )
        if mean is not None
    }


def table_4(section: Section) -> Table | None:
    """Compression ratios of classical compressors."""
    found = _compression(section) if section.protocol == "any" else {}
    if not found:
        return None
    beside = {
        (_method(row["method"], "Pythia-160M"), row["source"]): row
        for row in published()["compression"]
    }
    # Published numbers stay in the table, with an empty cell for what we have not run.
    rows = []
    for method, source in dict.fromkeys([*beside, *found]):
        known = beside.get((method, source))
        text = f"{known['ratio']} ± {known['ratio_std']}" if known else None
        row = {"method": method, "source": source, "published": text}
        rows.append(row | {"ours": found.get((method, source))})
    notes = (
        f"Bits of the text over bits of the file; ours: {HOW}.",
        f"{PUBLISHED}, {published()['about']['compression']}; mean ± sd.",
    )
    return Table("Table 4. Compressors of files", rows, notes)


def _compression(section: Section) -> dict[tuple[str, str], Estimate]:
    """Compression ratio by method and source."""
    groups = collections.defaultdict(list)
    for record in section.runs.compression:
        method = _method(record["method"], lm_name(record["lm"]))
        groups[method, record["source"]].append(record)
    return {name: estimate_of(records, "ratio") for name, records in sorted(groups.items())}


def _method(method: str, lm: str) -> str:
    """Name of a method; that of arithmetic coding includes the LM."""
    return f"{method}, {lm}" if method == "arithmetic" else method


def runs(section: Section) -> Table | None:
    """Conditions and sizes of each group of records."""
    rows: Sequence[dict[str, Any]] = [
        m.context()
        | {
            "parameters": m.group.about["parameters"],
            "SHA-256": m.group.about["sha256"][:16],
            "records": len(m.group.places),
            "texts": len(np.unique(m.group.texts)),
            "median steps": float(np.median(m.group.columns["steps"])),
        }
        for m in section.measures
    ]
    return Table("The runs", list(rows)) if rows else None


TABLES: dict[str, Callable[[Section], Table | None]] = {
    "table_1": table_1,
    "table_3": table_3,
    "capacity": capacity,
    "lengths": lengths,
    "file_sizes": file_sizes,
    "horizons": horizons,
    "table_4": table_4,
    "runs": runs,
}
