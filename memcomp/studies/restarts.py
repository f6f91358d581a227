"""A run that crams texts from several starts and studies where their memories lie.

The memories are crammed by a run in the subfolder `restarts/`, which a report does not
count as a measure of capacity. The records of all studies, by `kind`, are the lines of
geometry.jsonl.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.memory_file import load_memory
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_count, check_number
from memcomp.runs.cramming import run_cramming
from memcomp.runs.files import Record, run_studies
from memcomp.studies.geometry import (
    CurveConfig,
    Solutions,
    along_curves,
    cosines,
    find_controls,
    length_ratios,
    nearest,
    padded,
    pairs,
    score,
    vocabulary,
)
from memcomp.studies.trajectories import Pca, initial_memories, pca, trajectories

RECORDS = "geometry.jsonl"
RESTARTS = "restarts"
NUM_COMPONENTS = 3  # number of principal components of a trajectory that are written
NUM_EXPLAINED = 10  # number of shares of variance that are written


@dataclasses.dataclass(frozen=True)
class GeometryConfig:
    """Sizes of the studies.

    Attributes:
      num_restarts: number of initial memories of each text.
      most_between: largest number of pairs of memories of different texts whose cosines are
        written.
      pairs_per_text: largest number of pairs of memories of a text with a path between.
      num_thetas: number of points of a path, evenly spaced from 0 to 1.
      scales: factors that memories are multiplied by.
      num_vocabulary: number of token embeddings, drawn by the seed, that are compared with
        all others, as memories are.
      trajectory_texts: number of texts, the first ones, whose trajectories are written.
      trajectory_restarts: number of trajectories of each of these texts.
      trajectory_every: number of steps between two points of a trajectory.
      curve: how Bezier curves are optimised.

    Raises:
      InputError: a value is out of its range.
    """

    num_restarts: int = 16
    most_between: int = 10_000
    pairs_per_text: int = 8
    num_thetas: int = 21
    scales: tuple[float, ...] = (
        0.25,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        1.0,
        1.1,
        1.2,
        1.3,
        1.4,
        1.5,
        2.0,
    )
    num_vocabulary: int = 500
    trajectory_texts: int = 3
    trajectory_restarts: int = 6
    trajectory_every: int = 5
    curve: CurveConfig = CurveConfig()

    def __post_init__(self):
        least = {"num_restarts": 2, "num_thetas": 2, "curve": None, "scales": None}
        for field in dataclasses.fields(self):
            low, value = least.get(field.name, 1), getattr(self, field.name)
            if low is not None:
                check_count(field.name, value, low)
        if not self.scales:
            raise InputError(f"scales is {self.scales}; give numbers, at least one factor")
        for scale in self.scales:
            check_number("a factor of scales", scale)


def restarts(texts: Sequence[Text], num: int) -> list[Text]:
    """Returns every text `num` times, each with another initial memory."""
    return [text.again(restart) for restart in range(num) for text in texts]


def run_geometry(
    lm: LanguageModel,
    texts: Sequence[Text],
    cfg: CramConfig,
    study: GeometryConfig,
    workdir: epath.Path,
    report: Callable[[str, int, int], None] = lambda what, num_done, num: None,
) -> list[Record]:
    """Crams the texts from several starts; returns the records of all studies.

    Args:
      lm: the frozen language model.
      texts: the texts, with distinct `text_id`s.
      cfg: what to cram and how.
      study: sizes of the studies.
      workdir: folder claimed by this config; crammed texts and finished studies of an
        earlier start are kept.
      report: called with a name, the number done, and their total, for progress.

    Raises:
      InputError: a text does not fit into the LM's positions, or no text has two solutions.
    """
    again = restarts(texts, study.num_restarts)
    folder = workdir / RESTARTS
    records = run_cramming(
        lm, again, cfg, folder, lambda p: report("memories", p.num_done, p.num_texts)
    )
    records = [r for r in records if r["exact_greedy"] and r["exact_teacher_forced"]]
    who = np.array([r["text_id"] for r in records], np.int64)
    if not len(pairs(who, same=True)):
        raise InputError(
            f"{len(records)} of {len(again)} starts came to an exact solution and no text "
            "has two; give fewer tokens, more steps or more starts"
        )
    solutions = _solutions(folder, records, texts)
    made = _Studies(lm, list(texts), cfg, study, solutions, records, who, report)
    return run_studies(
        workdir / RECORDS,
        {
            "restart": made.restarts,
            "cosine": made.cosines,
            "path": made.paths,
            "norm": made.norms,
            "scale": made.scales,
            "trajectory": made.trajectories,
        },
    )


def _solutions(
    folder: epath.Path, records: Sequence[Record], texts: Sequence[Text]
) -> Solutions:
    """Loads the memory of each record."""
    by_id = {text.text_id: text for text in texts}
    files = {
        name: load_memory(folder / name) for name in {r["memory_file"] for r in records}
    }
    memory = [files[r["memory_file"]][r["memory_key"]].memory for r in records]
    tokens, lengths = padded([by_id[r["text_id"]] for r in records])
    return Solutions(np.stack(memory), tokens, lengths)


def check_geometry(cfg: CramConfig) -> None:
    """Raises an `InputError` unless memories are input vectors, which the studies need."""
    if not cfg.way.is_prompt:
        raise InputError(
            f"memory is {cfg.memory!r}, and the studies of geometry are of input vectors; "
            "set it to vectors"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Studies:
    """The studies of one run; each method yields the records of a study."""

    lm: LanguageModel
    texts: list[Text]
    cfg: CramConfig
    study: GeometryConfig
    solutions: Solutions
    solved: list[Record]  # record of each solution
    who: np.ndarray  # id of the text of each solution
    report: Callable[[str, int, int], None]

    def restarts(self) -> Iterator[Record]:
        exact = {r["seed_id"] for r in self.solved}
        for text in restarts(self.texts, self.study.num_restarts):
            name = {"text_id": text.text_id, "restart": text.restart}
            yield name | {"exact": text.seed_id in exact}

    def cosines(self) -> Iterator[Record]:
        for same, most in ((True, None), (False, self.study.most_between)):
            rows = pairs(self.who, same=same, most=most, seed=self.cfg.seed)
            found = cosines(self.solutions.memory, rows).tolist()
            for row, cosine in zip(rows, found, strict=True):
                yield {"same_text": same, "cosine": cosine, "pair": self._pair(row)}

    def paths(self) -> Iterator[Record]:
        study, memory = self.study, self.solutions.memory
        most, seed = study.pairs_per_text, self.cfg.seed
        rows = pairs(self.who, same=True, most=most, seed=seed)
        start, end = memory[rows[:, 0]], memory[rows[:, 1]]
        bent = find_controls(
            self.lm,
            self.solutions,
            rows,
            self.cfg,
            study.curve,
            lambda num_done: self.report("curves", num_done, len(rows)),
        )
        thetas = np.linspace(0, 1, study.num_thetas).tolist()
        for path, controls in (("line", (start + end) / 2), ("bezier", bent)):
            ratios = length_ratios(start, controls, end)
            scores = along_curves(self.lm, self.solutions, rows, controls, thetas, self.cfg)
            for row, ratio, *at in zip(rows, ratios.tolist(), *scores, strict=True):
                about = {"path": path, "pair": self._pair(row), "length_ratio": ratio}
                for theta, accuracy, loss in zip(thetas, *at, strict=True):
                    line = {"theta": theta, "accuracy": float(accuracy)}
                    yield line | {"loss_nats": float(loss)} | about

    def norms(self) -> Iterator[Record]:
        """Norms and nearest tokens of memories, of their starts, and of some tokens."""
        table, cfg = vocabulary(self.lm), self.cfg
        memory, M = self.solutions.memory, cfg.num_memory
        starts = initial_memories(self.lm, [r["seed_id"] for r in self.solved], cfg)
        for of, vectors in (("memory", memory), ("start", starts)):
            found = nearest(vectors.reshape(-1, vectors.shape[-1]), table)
            for i, near in enumerate(found):
                row = i // M
                words = self.solutions.tokens[row, : self.solutions.lengths[row]]
                yield (
                    {"of": of, "vector": i % M}
                    | _name(self.solved[row])
                    | near._asdict()
                    | {
                        "cosine_token_in_text": bool(near.cosine_token in words),
                        "distance_token_in_text": bool(near.distance_token in words),
                    }
                )
        rng = np.random.default_rng(cfg.seed)
        some = rng.permutation(len(table))[: self.study.num_vocabulary]
        for token, near in zip(
            some.tolist(), nearest(table[some], table, some), strict=True
        ):
            yield {"of": "vocabulary", "token": token} | near._asdict()

    def scales(self) -> Iterator[Record]:
        for scale in self.study.scales:
            longer = self.solutions.memory * np.float32(scale)
            scores = score(self.lm, self.solutions.at(slice(None), longer), self.cfg)
            for record, accuracy, loss in zip(self.solved, *scores, strict=True):
                line = {"scale": scale, "accuracy": float(accuracy)}
                yield line | {"loss_nats": float(loss)} | _name(record)

    def trajectories(self) -> Iterator[Record]:
        study = self.study
        few = self.texts[: study.trajectory_texts]
        again = restarts(few, min(study.trajectory_restarts, study.num_restarts))
        found = trajectories(self.lm, again, self.cfg, study.trajectory_every)
        flat = [t.memory.reshape(len(t.memory), -1) for t in found]
        of_all = pca(np.concatenate(flat), NUM_COMPONENTS)
        for text, trajectory, points in zip(again, found, flat, strict=True):
            yield {
                "text_id": text.text_id,
                "restart": text.restart,
                "exact": trajectory.exact,
                "steps": trajectory.steps.tolist(),
                "points": of_all.project(points).round(5).tolist(),
                "explained": _shares(of_all),
                "explained_alone": _shares(pca(points, 1)),
            }

    def _pair(self, row: Any) -> str:
        """Name of a pair of solutions, "text-start:text-start"."""
        ends = (self.solved[i] for i in row)
        return ":".join(f"{r['text_id']}-{r['restart']}" for r in ends)


def _name(record: Record) -> Record:
    return {"text_id": record["text_id"], "restart": record["restart"]}


def _shares(found: Pca) -> list[float]:
    """Shares of variance along the first directions, filled up with 0."""
    shares = found.explained[:NUM_EXPLAINED]
    return np.pad(shares, (0, NUM_EXPLAINED - len(shares))).round(6).tolist()
