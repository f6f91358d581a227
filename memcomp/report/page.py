"""Makes one HTML page with all tables and figures, and texts to view token by token."""

import base64
import html
import itertools
import json
import pathlib
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memcomp.cram.ways.table import WAYS
from memcomp.lm.score import BITS_PER_NAT
from memcomp.report.load import Group, Runs, read_records
from memcomp.report.section import Section
from memcomp.report.style import Drawn
from memcomp.report.table_format import Table

HERE = pathlib.Path(__file__).parent
# Fields of a record that the page shows, in addition to the facts.
SHOWN = ("tokens_text", "first_right_steps", "surprise_nats", "decoded", "text")


def page(
    runs: Runs,
    parts: Sequence[tuple[Section, Sequence[Table], Mapping[str, tuple[Drawn, bytes]]]],
    *,
    max_texts: int,
) -> str:
    """Makes the page, which contains everything and loads no other file.

    Args:
      runs: the runs that were read.
      parts: each section with its tables, and its figures with their PNGs by name.
      max_texts: largest number of texts whose tokens are in the page.
    """
    num_records = sum(len(group.places) for group in runs.groups)
    texts = chosen_texts(runs.groups, max_texts)
    values = {
        "title": "How much text a vector holds",
        "about": f"{num_records:,} records of {len(runs.configs):,} runs.",
        "links": _links(parts),
        "sections": "\n".join(_section(*part) for part in parts),
        "which": _which(len(texts), num_records),
        "configs": "\n".join(_configs(runs.configs)),
        "data": _script_data(texts),
    }
    for name, file in (("style", "page.css"), ("script", "page.js")):
        values[name] = (HERE / file).read_text()
    return string.Template((HERE / "page.html").read_text()).substitute(values)


def chosen_texts(groups: Sequence[Group], most: int) -> list[dict[str, Any]]:
    """Chooses up to `most` records, evenly over groups and, within one, over lengths."""
    deals = itertools.zip_longest(*(_in_turns(group) for group in groups))
    dealt = (
        (rank, index)
        for deal in deals
        for rank, index in enumerate(deal)
        if index is not None
    )
    found = []
    for rank, index in itertools.islice(dealt, most):
        (record,) = read_records([groups[rank].places[index]])
        number = int(groups[rank].texts[index])
        found.append((rank, record["num_tokens"], number, record))
    found.sort(key=lambda item: item[:3])
    return [_text(groups[rank], record, number) for rank, _, number, record in found]


def _in_turns(group: Group) -> Iterator[int]:
    """Indices of a group's records: one of each length, then a second of each, ..."""
    lengths = group.columns["num_tokens"]
    by_length = np.argsort(lengths, kind="stable")
    counts = np.unique(lengths, return_counts=True)[1]
    turn = np.zeros(len(lengths), np.int64)
    turn[by_length] = np.concatenate([np.arange(n) for n in counts])
    return iter(np.lexsort((lengths, turn)).tolist())


def _text(group: Group, record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Returns the fields of a record that the page shows."""
    key = group.key
    exact = bool(record["exact_greedy"])
    held = f"{key.num_memory} {WAYS[record['memory']].noun}{'s' * (key.num_memory > 1)}"
    came_back = "exact" if exact else f"{100 * record['accuracy']:.1f}% of tokens right"
    if record.get("text_comes_back") is False:
        came_back += ", of tokens that the tokenizer makes no such text of"
    scale = record["num_tokens"] * BITS_PER_NAT
    before, after = record["baseline_loss_nats"] * scale, "a loss that is not finite"
    if record["loss_nats"] is not None:
        after = f"{record['loss_nats'] * scale:.1f}"
    facts = (
        f"{record['num_tokens']} tokens in {held}: {came_back} after {record['steps']} "
        f"steps; {before:.0f} bits of surprise without memory, {after} with it. "
        f"Protocol {key.protocol}; {key.lm}, {key.revision}; recipe {key.recipe}."
    )
    return {
        "group": f"{key.protocol}: {group.label}, {key.source}, {held}",
        "name": f"{record['num_tokens']} tokens, text {number}, {came_back}",
        "facts": facts,
        "exact": exact,
        **{name: record[name] for name in SHOWN if record.get(name) is not None},
    }


def _which(shown: int, of: int) -> str:
    if shown < of:
        return (
            f"{shown:,} of the {of:,} records: dealt evenly over protocols, LMs, sources, "
            "numbers of vectors and lengths, in the order of the run."
        )
    return f"All {of:,} records."


def _script_data(texts: Sequence[Mapping[str, Any]]) -> str:
    """Returns JSON in which no text can end the script element that contains it."""
    data = json.dumps(texts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
    return data.translate(str.maketrans(escapes))


def _anchor(section: Section) -> str:
    return f"section-{section.protocol}"


def _links(parts: Sequence[tuple[Section, Any, Any]]) -> str:
    links = [(_anchor(section), section.title.partition(":")[0]) for section, *_ in parts]
    links += [("texts", "Texts"), ("runs", "Configs")]
    return "".join(f'<a href="#{to}">{html.escape(name)}</a>' for to, name in links)


def _section(
    section: Section, tables: Sequence[Table], figures: Mapping[str, tuple[Drawn, bytes]]
) -> str:
    lines = [f'<h2 id="{_anchor(section)}">{html.escape(section.title)}</h2>']
    for name, (drawn, picture) in figures.items():
        encoded = base64.b64encode(picture).decode()
        title, caption = html.escape(drawn.title), html.escape(drawn.caption)
        lines.append(
            f'<figure id="{_anchor(section)}-{name}">'
            f'<img alt="{title}. {caption}" src="data:image/png;base64,{encoded}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return "\n".join([*lines, *(table.html() for table in tables)])


def _configs(configs: Mapping[str, Any]) -> Iterator[str]:
    for folder, about in configs.items():
        text = html.escape(json.dumps(about, indent=1, ensure_ascii=False))
        name = html.escape(str(folder))
        yield f"<details><summary>{name}</summary><pre>{text}</pre></details>"
