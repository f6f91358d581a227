"""The page: whole, offline, safe whatever the texts are, and it shows their tokens."""

import html.parser
import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from browser import FOUND, Browser
from synthetic_runs import BUILTIN, config, make_cell, make_sweep, record, write_run

from memcomp.report import write
from memcomp.report.figures import FIGURES
from memcomp.report.load import read_runs
from memcomp.report.page import chosen_texts
from memcomp.report.section import sections

HOSTILE = "</script ><script>throw 1</script><!--<script <b>&amp; \" ' ` \\ \u2028 ∑"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A sweep, and the page of it with 40 texts and some of the figures.

    tests/report/test_figures.py draws all of them.
    """
    folder = tmp_path_factory.mktemp("report")
    top = make_sweep(folder / "sweep", num_texts=4)
    before = plt.get_fignums()
    some = {name: FIGURES[name] for name in ("horizons", "figure_5", "figure_8", "norms")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "FIGURES", some)
        written = write.write_report([top], folder / "out", max_texts=40)
    assert plt.get_fignums() == before
    return top, written


class _Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self._in = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = dict(attrs).get("id")

    def handle_data(self, data):
        self.data[self._in] = self.data.get(self._in, "") + data


def test_the_files_of_a_report(report):
    _, written = report
    assert all(path.exists() for path in written) and written[0].name == "report.html"
    names = {f"{path.parent.name}/{path.name}" for path in written}
    assert {"tables/strict_table_1.md", "tables/any_table_4.csv"} <= names
    assert {"figures/reference_figure_5.png", "figures/any_figure_8.csv"} <= names


def test_the_page_holds_every_figure_table_and_config_and_asks_for_nothing(report):
    top, written = report
    text = written[0].read_text()
    page = _Tags(text)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == sum(path.suffix == ".png" for path in written)
    assert all(p["src"].startswith("data:image/png;base64,") and p["alt"] for p in pictures)
    assert sum(tag == "table" for tag, _ in page.tags) == sum(
        path.suffix == ".md" for path in written
    )
    assert text.count("<details>") == len(list(top.rglob("config.json")))
    assert "where novels are" in text
    for _, attrs in page.tags:
        for name in ("src", "href"):
            assert re.match(r"data:|#|$", attrs.get(name) or "")
    assert "url(" not in text and "import " not in page.data.get(None, "")


def test_protocols_have_sections_of_their_own(report):
    _, written = report
    parts = re.split(r'<h2 id="([^"]+)"', written[0].read_text())
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(found) == [
        "section-strict",
        "section-reference",
        "section-any",
        "texts",
        "runs",
    ]
    shared = re.findall(r"<p class=shared>([^<]*)", found["section-strict"])
    assert shared and all("protocol: strict" in line for line in shared)
    shared = re.findall(r"<p class=shared>([^<]*)", found["section-reference"])
    assert shared and all("protocol: reference" in line for line in shared)


@pytest.mark.ci
def test_texts_are_dealt_evenly(report):
    top, written = report
    groups = read_runs([top]).groups
    texts = chosen_texts(groups, 40)
    assert len(texts) == 40
    shares = [
        sum(t["group"] == name for t in texts) for name in {t["group"] for t in texts}
    ]
    assert len(shares) == len(groups) and max(shares) - min(shares) <= 1
    data = json.loads(_Tags(written[0].read_text()).data["data"])
    assert data == texts
    assert "40 of the " in written[0].read_text()
    everything = chosen_texts(groups, 10**6)
    assert len(everything) == sum(len(group.places) for group in groups)
    first = [t["facts"].split()[0] for t in everything if "stories" in t["group"]]
    assert first == [str(n) for n in (8, 16, 24, 32, 48, 64, 96, 128) for _ in range(4)]


def test_a_cache_is_reported_as_what_it_is(tmp_path):
    """Its numbers set the bound, and not the LM's width; the page counts positions."""
    line = record(np.random.default_rng(0), BUILTIN, "novels", 2, "strict", 0, 8)
    line |= {"memory": "cache", "num_parameters": 4096}
    line |= {"accuracy": 0.5, "exact_greedy": False}
    write_run(tmp_path, config(BUILTIN, "novels", 2, "strict"), [line])
    runs = read_runs([tmp_path])
    (measures,) = sections(runs)[0].measures
    assert measures.bound == 4096 * 16 / math.log2(BUILTIN["vocab_size"])
    gain = line["information_gain_bits"]
    assert measures.bits_per_dimension.mean == pytest.approx(gain / 4096)
    (text,) = chosen_texts(runs.groups, 1)
    assert text["facts"].startswith("8 tokens in 2 cache positions: ")
    assert text["group"].endswith("novels, 2 cache positions")


def test_no_text_can_leave_its_place(tmp_path):
    line = record(np.random.default_rng(0), BUILTIN, "novels", 1, "strict", 0, 8)
    line |= {"tokens_text": [HOSTILE] * 8, "text": HOSTILE, "decoded": HOSTILE}
    about = config(BUILTIN | {"name": "<i>lm</i>"}, HOSTILE, 1, "strict")
    write_run(tmp_path / "run", about, [line | {"source": HOSTILE}])
    page, *_ = write.write_report([tmp_path / "run"], tmp_path / "out")
    parsed = _Tags(page.read_text())
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert "b" not in [tag for tag, _ in parsed.tags]
    (text,) = json.loads(parsed.data["data"])
    assert text["tokens_text"] == [HOSTILE] * 8
    if FOUND:
        with Browser(tmp_path / "profile") as browser:
            browser.open(page)
            shown = browser.evaluate("document.querySelector('.tokens span').textContent")
            assert shown == HOSTILE and not browser.complaints()


@pytest.mark.ci
@pytest.mark.skipif(FOUND is None, reason="no Chromium here; apt-get install chromium")
def test_a_reader_picks_a_text(report, tmp_path):
    _, (page, *_) = report
    texts = json.loads(_Tags(page.read_text()).data["data"])
    # Reference: the first token is given, and neither right nor wrong.
    failed = next(
        i
        for i, t in enumerate(texts)
        if -1 in t["first_right_steps"][1:] and t["surprise_nats"][0] is None
    )
    spans = "document.querySelectorAll('.panels > div:nth-child({}) .tokens span')"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, "#text=3")
        shown = "document.getElementById('shown').dataset.shown"
        assert browser.evaluate(shown) == "3"
        browser.evaluate(
            f"const s = document.getElementById('text'); s.value = '{failed}';"
            "s.dispatchEvent(new Event('change'))"
        )
        assert browser.evaluate(shown) == str(failed)
        assert browser.evaluate("location.hash") == f"#text={failed}"
        text = texts[failed]
        for panel in (1, 2):
            found = browser.evaluate(f"Array.from({spans.format(panel)}, s => s.innerText)")
            assert "".join(found) == "".join(text["tokens_text"])
        never = browser.evaluate(f"Array.from({spans.format(1)}, s => s.className)")
        steps = text["first_right_steps"]
        assert never == ["given", *("never" if s < 0 else "" for s in steps[1:])]
        colour = "s => s.style.backgroundColor"
        dark = browser.evaluate(f"Array.from({spans.format(2)}, {colour})")
        most = max(range(1, len(dark)), key=text["surprise_nats"].__getitem__)
        assert dark[most] == "rgb(68, 1, 84)"
        browser.evaluate(
            f"{spans.format(1)}[{most}].dispatchEvent("
            "new MouseEvent('mouseover', {bubbles: true}))"
        )
        said = browser.evaluate("document.getElementById('at').textContent")
        bits = text["surprise_nats"][most] / 0.6931471805599453
        assert f"Token {most + 1} of" in said and f"{bits:.2f} bits" in said
        browser.evaluate("document.getElementById('after').click()")
        assert browser.evaluate(shown) == str((failed + 1) % len(texts))
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
        assert browser.complaints() == []
        assert {url.partition(":")[0] for url in browser.requests()} == {"file", "data"}


def test_a_text_that_diverged_at_once_is_in_the_report(tmp_path):
    make_cell(tmp_path, BUILTIN, "novels", 1, "strict", (8,), 3)
    (file,) = tmp_path.rglob("results.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1] |= {"loss_nats": None, "accuracy": 0.0, "exact_greedy": False}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    written = write.write_report([tmp_path], tmp_path / "out")
    assert "a loss that is not finite with it" in written[0].read_text()
    (group,) = read_runs([tmp_path]).groups
    loss = group.columns["loss_nats"]
    assert np.isnan(loss[1]) and np.isfinite(loss[[0, 2]]).all()
