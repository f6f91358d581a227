"""Crams texts from several starts, and studies the geometry of their vectors.

  python experiments/geometry.py [--config configs/geometry.py] [--config.x.y=value]
      [--workdir DIR]

It can be stopped at any moment, and the same command resumes it.
"""

import collections
import statistics

import tqdm
from launch import Config, launch, note, say_notes

from memcomp.runs.cramming import describe
from memcomp.runs.files import Record, claim_workdir
from memcomp.runs.inputs import load_cramming
from memcomp.studies.geometry import CurveConfig
from memcomp.studies.restarts import GeometryConfig, check_geometry, run_geometry

DEFAULT_WORKDIR = "runs/geometry"


def main(config: Config, workdir: str | None) -> None:
    """Crams the texts, runs the studies and prints a summary."""
    curve = CurveConfig(seed=config.seed, **config.curve)
    study = GeometryConfig(curve=curve, **config.study)
    lm, texts, cfg = load_cramming(config.to_dict(), note)
    check_geometry(cfg)
    folder = claim_workdir(
        workdir or DEFAULT_WORKDIR, config.to_dict(), describe(lm, texts[0].source_sha256)
    )
    say_notes()
    with tqdm.tqdm(mininterval=1) as bar:

        def report(what: str, num_done: int, num: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = num, num_done
            bar.refresh()

        records = run_geometry(lm, texts, cfg, study, folder, report)
    print("\n".join(summary(records)))
    print(f"run: {folder}; its figures: python experiments/report.py {folder}")


def summary(records: list[Record]) -> list[str]:
    """Returns a sentence per study."""
    by_kind = collections.defaultdict(list)
    for record in records:
        by_kind[record["kind"]].append(record)
    exact = sum(r["exact"] for r in by_kind["restart"])
    said = [f"{exact} of {len(by_kind['restart'])} starts are exact; the rest is left out"]
    for same, words in ((True, "one text"), (False, "different texts")):
        if here := [r["cosine"] for r in by_kind["cosine"] if r["same_text"] == same]:
            mean, most = statistics.fmean(here), max(here)
            n = len(here)
            said.append(f"cosine in {words}: mean {mean:.3f}, up to {most:.3f}, n = {n}")
    for path in ("line", "bezier"):
        here = [r for r in by_kind["path"] if r["path"] == path]
        lowest = collections.defaultdict(lambda: 1.0)
        for r in here:
            lowest[r["pair"]] = min(lowest[r["pair"]], r["accuracy"])
        whole = sum(value == 1 for value in lowest.values())
        ratio = statistics.fmean(r["length_ratio"] for r in here)
        said.append(
            f"{path}: {whole} of {len(lowest)} exact all along, lowest accuracy "
            f"{statistics.fmean(lowest.values()):.3f} on average, {ratio:.3f} times as "
            "long as the straight line"
        )
    for of in ("memory", "start", "vocabulary"):
        here = [r for r in by_kind["norm"] if r["of"] == of]
        norm = statistics.fmean(r["norm"] for r in here)
        near = statistics.fmean(r["cosine"] for r in here)
        said.append(f"{of}: norm {norm:.2f}, nearest token at a cosine of {near:.3f}")
    first = by_kind["trajectory"][0]["explained"]
    said.append(f"trajectories: {sum(first[:2]):.1%} of the variance in two directions")
    return said


if __name__ == "__main__":
    launch(main, "geometry.py")
