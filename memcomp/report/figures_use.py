"""Figures of experiments/use.py: in which layers memory is read, and how it is used."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes

from memcomp.metrics.capacity import Estimate
from memcomp.report.published import lm_name
from memcomp.report.section import Section
from memcomp.report.style import COLOURS, GREY, Drawn, drawn, label_ends, line
from memcomp.runs.files import Record
from memcomp.studies.use import differences, means

RUN = ("LM", "texts", "tokens", "vectors")
FIELD = {
    "attention": "mass",
    "knockout": "accuracy",
    "use": "loss_nats",
    "context": "loss_nats",
}
BLUE, RED, GREEN = COLOURS[:3]


def _study(
    section: Section,
    kind: str,
    draw: Callable[[Axes, list[Record]], list[tuple]],
    *head: str,
    **about: Any,
) -> Drawn | None:
    """Makes a panel per run of this study with `draw`, which returns the numbers in it."""
    runs: dict[tuple, list[Record]] = {}
    for records in section.study(kind).values():
        for r in records:
            run = (lm_name(r["lm"]), r["texts"], r["num_tokens"], r["num_memory"])
            runs.setdefault(run, []).append(r)

    def panel(axis: Axes, run: tuple, records: list[Record], n: int) -> list[tuple]:
        lm, texts, tokens, vectors = run
        held = f"{vectors} vector{'s' * (vectors > 1)}"
        title = f"{lm}, {texts}: {tokens} tokens in {held}, {n} texts"
        axis.set_title(title, loc="left", fontsize=10)
        return [(*run, *row) for row in draw(axis, records)]

    found = {run: means(kind, records, FIELD[kind]) for run, records in runs.items()}
    return drawn(
        # Runs without texts to average get no panel.
        [(run, runs[run], next(iter(e.values())).n) for run, e in found.items() if e],
        panel,
        head=(*RUN, *head, *Estimate._fields),
        **{"width": 6.6, "height": 4.2, "most": 2, **about},
    )


def attention_by_layer(section: Section) -> Drawn | None:
    """Draws the share of the text's attention that goes to memory, and to a start token."""
    return _study(
        section,
        "attention",
        _draw_attention,
        *("in the place of memory", "layer", "head"),
        title="Attention on memory by layer",
        caption="Share of the attention of the text's queries (all but the one that "
        "predicts the first token) that goes to memory; texts that come back exactly. "
        "Lines: mean over heads, with its 95% interval over texts; small marks: each "
        "head. Orange: the start token where the LM reads it in the place of memory. "
        "Grey: if all keys got the same.",
    )


def _draw_attention(axis: Axes, records: list[Record]) -> list[tuple]:
    rows, ends = [], []
    found = means("attention", records, "mass")
    heads = means("attention", records, "heads", each=True)
    for condition, colour in (("memory", BLUE), ("start token", RED)):
        here = {key[1]: e for key, e in found.items() if key[0] == condition}
        if not here:
            continue
        ends.append((line(axis, here, colour), condition, colour))
        rows += [(condition, layer, "mean", *e) for layer, e in here.items()]
        of_heads = {key[1:]: e for key, e in heads.items() if key[0] == condition}
        aside = -0.06 if condition == "memory" else 0.06  # so that marks do not overlap
        axis.plot(
            [layer + aside for layer, _ in of_heads],
            [e.mean for e in of_heads.values()],
            "_",
            color=colour,
            alpha=0.55,
            ms=6,
        )
        rows += [(condition, *key, *e) for key, e in of_heads.items()]
    uniform = means("attention", records, "uniform")
    (level,) = {e.mean for key, e in uniform.items() if key == ("memory", 0)}
    axis.axhline(level, color=GREY, ls=":", lw=1.2)
    ends.append((level, "uniform", GREY))
    axis.set(xlabel="layer", ylabel="share of attention", ylim=(0, 1))
    axis.set_xticks(sorted({key[1] for key in found}))
    label_ends(axis, ends)
    return rows


def knockout_by_layer(section: Section) -> Drawn | None:
    """Draws accuracy when memory is hidden from the text in some layers."""
    return _study(
        section,
        "knockout",
        _draw_knockout,
        *("memory hidden in", "from layer", "to layer"),
        title="Memory knocked out of layers",
        caption="Share of tokens right (teacher-forced, without the first, which is "
        "predicted at memory itself) where the text's queries do not see memory in some "
        "layers; texts that come back exactly; bands: 95% intervals over texts. Layer i "
        "on the axis is the only one, the last one, or the first one that is hidden.",
    )


def _draw_knockout(axis: Axes, records: list[Record]) -> list[tuple]:
    found = means("knockout", records, "accuracy")
    ranges = {key[1:]: e for key, e in found.items() if key[0] == "memory"}
    L = max(last for _, last in ranges)
    lines = (
        ("layer i alone", {a: e for (a, b), e in ranges.items() if b == a + 1}, GREEN),
        ("layers 0 to i", {b - 1: e for (a, b), e in ranges.items() if a == 0 < b}, BLUE),
        (
            f"layers i to {L - 1}",
            {a: e for (a, b), e in ranges.items() if a < b == L},
            RED,
        ),
    )
    ends, rows = [], []
    for name, found_here, colour in lines:
        end = line(axis, dict(sorted(found_here.items())), colour)
        ends.append((end, f"hidden in {name}", colour))
    levels = [("nothing hidden", ranges[0, 0])]
    levels += [("start token instead", e) for key, e in found.items() if key[1] is None]
    for name, e in levels:
        axis.axhline(e.mean, color=GREY, ls=":", lw=1.2)
        ends.append((e.mean, name, GREY))
        rows.append((name, None, None, *e))
    axis.set(xlabel="layer i", ylabel="share of tokens right", ylim=(-0.03, 1.05))
    axis.set_xticks(range(L))
    label_ends(axis, ends)
    return rows + [("layers", a, b - 1, *e) for (a, b), e in ranges.items() if a < b]


def use_of_memory(section: Section) -> Drawn | None:
    """Draws cross-entropy of the true continuation after memory, text, or nothing."""
    names = {
        "nothing": "nothing",
        "text": "the text",
        "memory": "memory",
        "other memory": "another text's memory",
        "memory, text": "memory, then the text\ndecoded from it",
        "other memory, text": "another text's memory,\nthen the text",
    }
    return _study(
        section,
        "use",
        lambda axis, records: _draw_dots("use", names, axis, records),
        "given",
        title="The true continuation of a text, given its memory or the text",
        caption="Mean cross-entropy of the tokens that follow the text, each after the "
        "true ones before it; bars: 95% intervals over texts. On the right: the mean "
        "difference from nothing (the start token alone) within texts, with its interval.",
    )


def contexts(section: Section) -> Drawn | None:
    """Draws cross-entropy of the text itself after memory, real tokens, or a copy."""
    names = {
        "nothing": "nothing",
        "memory": "memory",
        "before": "{} tokens before it",
        "doubled": "the text, once",
        "copy": "the text, with a prompt\nto repeat it",
    }
    return _study(
        section,
        "context",
        lambda axis, records: _draw_dots("context", names, axis, records),
        "given",
        title="A text given other contexts than its memory",
        caption="Mean cross-entropy of a token of the text, teacher-forced, the first "
        "included; bars: 95% intervals over all texts, exact or not. On the right: the "
        "mean difference from nothing (the start token alone) within texts.",
    )


def _draw_dots(
    kind: str, names: Mapping[str, str], axis: Axes, records: list[Record]
) -> list[tuple]:
    """Draws mean, interval and difference from "nothing", one condition below another."""
    found = means(kind, records, "loss_nats")
    change = differences(kind, records, "loss_nats", "nothing")
    keys = sorted(found, key=lambda key: list(names).index(key[0]))
    labels = [names[key[0]].format(*key[1:]) for key in keys]
    rows = []
    for y, (key, label) in enumerate(zip(keys, labels, strict=True)):
        e, d = found[key], change[key]
        colour = BLUE if key[0].startswith("memory") else RED
        if key[0] == "nothing":
            colour = GREY
            axis.axvline(e.mean, color=GREY, ls=":", lw=1.2)
        axis.plot(e.interval, [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        axis.plot([e.mean], [y], "o", color=colour, ms=6)
        said = (
            f"{d.mean:+.2f}"
            if d.low is None
            else f"{d.mean:+.2f}  [{d.low:+.2f}, {d.high:+.2f}]"
        )
        if key[0] == "nothing":
            said = "difference from it:"
        axis.text(
            1.02, y, said, transform=axis.get_yaxis_transform(), va="center", fontsize=9
        )
        rows.append((label.replace("\n", " "), *e))
    axis.set_yticks(range(len(keys)), labels)
    axis.set_ylim(len(keys) - 0.5, -0.5)
    axis.set(xlabel="nats a token")
    axis.set_xlim(0, None)
    return rows
