"""Figure 1, and accuracy over length: how many tokens a memory holds."""

from matplotlib.axes import Axes

from memcomp.metrics.capacity import THRESHOLD, Capacity, Estimate
from memcomp.report.measures import Measures
from memcomp.report.published import PublishedCapacity, published_capacity
from memcomp.report.section import Section, by_lm
from memcomp.report.style import (
    GREY,
    Drawn,
    label_ends,
    panels,
    source_colours,
    tick_lengths,
)
from memcomp.report.tables import published_lengths


def beside(section: Section, m: Measures) -> PublishedCapacity | None:
    """What was published of the same LM, source and number of vectors."""
    model = m.group.published
    if model is None or not section.is_reference:
        return None
    return published_capacity(model.name, m.key.source, m.key.num_memory)


def bar_rows(lms: dict[str, list[Measures]]) -> tuple[list[Measures], list[float]]:
    """Measures from top to bottom and their heights, with a gap between LMs."""
    rows, heights, y = [], [], 0.0
    for measures in lms.values():
        for m in measures:
            rows.append(m)
            heights.append(y)
            y -= 1
        y -= 0.9
    return rows, heights


def name_lms(axis: Axes, lms: dict[str, list[Measures]], heights: list[float]) -> None:
    """The LM above its bars, and the source beside each."""
    rows = [m for measures in lms.values() for m in measures]
    axis.set_yticks(heights, [m.key.source for m in rows])
    first = 0
    for name, measures in lms.items():
        axis.text(
            0,
            heights[first] + 0.55,
            name,
            transform=axis.get_yaxis_transform(),
            weight="bold",
            va="bottom",
        )
        first += len(measures)
    axis.set_ylim(min(heights) - 0.7, max(heights) + 1.3)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)


def figure_1(section: Section) -> Drawn | None:
    """Capacity of one vector by LM."""
    lms = by_lm(m for m in section.fewest_vectors() if m.key.num_memory == 1)
    if not lms:
        return None
    measures, heights = bar_rows(lms)
    colours = source_colours(section.sources)
    figure, (axis,) = panels(
        1, width=8.0, height=1.2 + 0.42 * (heights[0] - heights[-1] + 2)
    )
    rows = []
    for m, y in zip(measures, heights, strict=True):
        c, known = m.capacity, beside(section, m)
        axis.barh(y, c.tokens, height=0.72, color=colours[m.key.source], alpha=0.6)
        if c.tokens:
            axis.plot([c.low, c.high], [y, y], color="black", lw=1.4)
        if known:
            axis.plot(known.max, y, "D", mfc="white", mec="black", ms=7)
        end = max(c.high, known.max if known else 0)
        axis.annotate(
            _capacity_words(c) + (f"; published ◇ {known.max}" if known else ""),
            (end, y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
        )
        rows.append((*who(m), *c[:5], known.max if known else None))
    axis.margins(x=0.28)
    axis.set_xlim(left=0)
    name_lms(axis, lms, heights)
    what = (
        "99% of texts exact, greedily"
        if section.protocol == "strict"
        else ("mean teacher-forced accuracy of 0.99")
    )
    axis.set_xlabel(f"tokens in one vector ({what})")
    head = (*WHO, "tokens", "n", "low", "high", "nothing longer tried", "published")
    caption = (
        "Bar: the longest length that passes; black line: its 95% interval over texts; "
        "“≥”: nothing longer was tried."
    )
    return Drawn("Figure 1. Capacity of one vector", caption, figure, head, rows)


def _capacity_words(c: Capacity) -> str:
    if not c.tokens:
        return "no length passes"
    return f"≥ {c.tokens}" if c.at_end else f"{c.tokens}"


WHO = ("LM", "revision", "recipe", "source", "vectors")


def who(m: Measures) -> tuple:
    """The cells of WHO."""
    key = m.key
    return m.group.label, key.revision, key.recipe, key.source, key.num_memory


def accuracy_over_length(section: Section) -> Drawn | None:
    """Share of tokens right, and of texts exact, at each length."""
    lms = by_lm(section.fewest_vectors())
    if not lms:
        return None
    colours = source_colours(section.sources)
    figure, axes = panels(len(lms), width=5.8, height=4.2)
    rows = []
    for axis, (name, measures) in zip(axes, lms.items(), strict=True):
        ends, lengths = [], set()
        for m in measures:
            colour = colours[m.key.source]
            accuracy, exact = (m.by_length[k] for k in ("accuracy", "exact_greedy"))
            xs = list(accuracy)
            _band(axis, accuracy, colour)
            axis.plot(xs, [exact[x].mean for x in xs], "--", color=colour, lw=1.1)
            ends.append((accuracy[xs[-1]].mean, m.key.source, colour))
            lengths |= set(xs)
            known = _published_accuracy(section, m)
            if known:
                axis.plot(*zip(*known.items(), strict=True), "D", mfc="none", mec=GREY)
                x = max(known)
                ends.append((known[x], "published ◇", GREY))
            rows += [(*who(m), x, *accuracy[x], exact[x].mean, known.get(x)) for x in xs]
        axis.axhline(THRESHOLD, color="0.6", lw=0.8, ls=":")
        axis.set(xscale="log", ylim=(-0.03, 1.05), title=name, xlabel="tokens in the text")
        tick_lengths(axis, lengths)
        axis.set_ylabel("share of tokens right (—), of texts exact (- -)")
        label_ends(axis, ends)
    head = (*WHO, "tokens", *Estimate._fields, "exact", "published accuracy")
    caption = (
        "Full line: mean teacher-forced accuracy with its 95% interval over texts; dashed: "
        "share of texts decoded exactly from the stored vector; dotted: 0.99."
    )
    return Drawn("Accuracy over length", caption, figure, head, rows)


def _published_accuracy(section: Section, m: Measures) -> dict[int, float]:
    if not section.is_reference or not m.group.published or m.key.num_memory > 1:
        return {}
    lengths = published_lengths(m.group.published, m.key.source)
    longest = max(m.by_length["accuracy"])
    return {n: row["accuracy"] for n, row in lengths.items() if n <= longest}


def _band(axis: Axes, estimates: dict[int, Estimate], colour: str) -> None:
    """A line with its interval."""
    xs = list(estimates)
    axis.plot(xs, [e.mean for e in estimates.values()], "-o", color=colour, ms=3.5, lw=1.8)
    low = [e.mean if e.low is None else e.low for e in estimates.values()]
    high = [e.mean if e.high is None else e.high for e in estimates.values()]
    axis.fill_between(xs, low, high, color=colour, alpha=0.18, lw=0)
