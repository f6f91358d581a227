"""Figures of horizons, the longest exact prefixes, by LM, source and recipe."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes

from memcomp.metrics.capacity import estimate_of
from memcomp.report.corpora import is_random
from memcomp.report.load import Key
from memcomp.report.published import PublishedHorizon, lm_name, published_horizons
from memcomp.report.section import Section, is_lower_bound
from memcomp.report.style import COLOURS, Drawn, dots, drawn, source_colours

# Panel -> figure -> field of a record.
PANELS = {
    "tokens": {"horizon": "horizon"},
    "bits": {"surprise": "horizon_bits", "gain": "information_gain_bits"},
}
AT_LEAST = "≥: some texts are exact to their end or were still growing"
OURS = {"horizon": COLOURS[0], "surprise": COLOURS[0], "gain": COLOURS[2]}


def _at_least(records: Iterable[dict]) -> str:
    """Marks a mean of which some value is only a lower bound."""
    return "≥ " * any(map(is_lower_bound, records))


def _values(records: Iterable[dict], field: str) -> np.ndarray:
    return np.array([r.get(field, np.nan) for r in records], np.float64)


def horizons(section: Section) -> Drawn | None:
    """Draws the longest exact prefix of each text, in tokens and in bits of surprise."""
    groups: dict[Key, list] = {}
    for r in sorted(section.horizons, key=lambda r: r["key"]):
        groups.setdefault(r["key"], []).append(r)
    colours = source_colours(section.sources)
    several = len({key._replace(source="") for key in groups}) > 1
    rng = np.random.default_rng(0)

    def draw(axis: Axes, field: str, unit: str) -> list[tuple]:
        rows, names = [], []
        for y, (key, records) in enumerate(groups.items()):
            values = _values(records, field)
            mean, colour = float(np.nanmean(values)), colours[key.source]
            words = f"{_at_least(records)}{mean:.4g}"
            dots(axis, y, values, mean, colour, rng, words=words, s=12, alpha=0.5)
            rows += [(*key[1:], unit, float(v)) for v in values]
            about = f"\n{lm_name(key.lm)}, K = {key.num_memory}, {key.recipe}"
            names.append(key.source + about * several)
        axis.set_yticks(range(len(groups)), names)
        axis.set(ylim=(-0.6, len(groups) - 0.3), xlabel=f"horizon ({unit})")
        axis.set_xlim(left=0)
        return rows

    fields = (("horizon", "tokens"), ("horizon_bits", "bits of surprise without memory"))
    return drawn(
        fields if groups else (),
        draw,
        title="Horizons: the longest prefix of a text that comes back exactly",
        caption=f"A point a text; the black line is the mean. {AT_LEAST}.",
        head=(*Key._fields[1:], "unit", "horizon"),
        height=1.6 + 0.62 * len(groups),
    )


def horizons_by_recipe(section: Section) -> Drawn | None:
    """Draws horizons of one vector by recipe, for LMs with published horizons."""
    ours: dict[str, dict[str, list[dict]]] = {}
    for r in sorted(section.horizons, key=lambda r: r["key"]):
        key = r["key"]
        if key.num_memory == 1 and not is_random(key.source) and published_horizons(key.lm):
            name = key.recipe
            if (key.source, key.dtype) != ("novels", "float32"):
                name = f"{name} ({key.source}, {key.dtype})"
            ours.setdefault(key.lm, {}).setdefault(name, []).append(r)
    # Published recipes come first, from the bottom, then those that only we have.
    recipes = {lm: list(dict.fromkeys([*published_horizons(lm), *ours[lm]])) for lm in ours}

    def draw(axis: Axes, lm: str, panel: str) -> list[tuple]:
        rows = []
        for y, recipe in enumerate(recipes[lm]):
            found = [_draw_published(axis, panel, y, published_horizons(lm).get(recipe))]
            if records := ours[lm].get(recipe):
                found += [
                    _draw_ours(axis, panel, y, records, name) for name in PANELS[panel]
                ]
            rows += [(lm_name(lm), recipe, *row) for row in found if row]
        axis.set_yticks(range(len(recipes[lm])), recipes[lm])
        axis.set(ylim=(-0.6, len(recipes[lm]) - 0.2), xlabel=f"{lm_name(lm)}: {panel}")
        axis.set_xlim(left=0)
        return rows

    made = drawn(
        [(lm, panel) for lm in ours for panel in PANELS],
        draw,
        title="What one vector holds: the longest prefix of a text that comes back exactly",
        caption="A point a text, decoded from its stored vector; black: the mean. "
        "Surprise: bits of the prefix for the LM without memory; gain: what memory saves; "
        f"{AT_LEAST}. Published: mean and standard deviation on other texts, "
        "teacher-forced, in bfloat16, bits of gain; an instruction-tuned LM "
        "stands beside its base model.",
        head=("lm", "recipe", "figure", "panel", "n", "mean", "spread", "kind of spread"),
        width=5.6,
        height=1.2 + 0.42 * max(map(len, recipes.values()), default=0),
        most=2,
    )
    if made:
        handles, labels = made.figure.axes[1].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        place = {"loc": "outside lower center", "ncols": 3, "fontsize": 9}
        made.figure.legend(list(named.values()), list(named), **place)
    return made


def _draw_published(
    axis: Axes, panel: str, y: int, row: PublishedHorizon | None
) -> tuple | None:
    mean, std = getattr(row, panel, None), getattr(row, f"{panel}_std", None)
    if mean is None:
        return None
    style = {"fmt": "D", "color": COLOURS[1], "mfc": "white", "capsize": 3}
    axis.errorbar(mean, y - 0.2, xerr=std, label="published", **style)
    return "published", panel, None, mean, std, "standard deviation"


def _draw_ours(axis: Axes, panel: str, y: int, records: list[dict], figure: str) -> tuple:
    field = PANELS[panel][figure]
    e = estimate_of(records, field)
    words = f"{_at_least(records)}{e.mean:.4g}"
    label = f"ours, {figure}" if panel == "bits" else "ours"
    # A gain is less than the surprise, beside which it stands.
    aligned = {"gain": "right", "surprise": "left"}.get(figure, "center")
    style = {"s": 14, "alpha": 0.6, "label": label, "words": words, "aligned": aligned}
    rng = np.random.default_rng(0)
    dots(axis, y + 0.1, _values(records, field), e.mean, OURS[figure], rng, **style)
    return figure, panel, e.n, e.mean, e.standard_error, "standard error"
