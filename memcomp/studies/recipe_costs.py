"""Compares recipes by horizon, by share of exact texts at a length, and by their cost."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.horizon import Growth, Trial, horizons
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.cram.result import CramResult
from memcomp.data.texts import Text
from memcomp.lm.protocol import LanguageModel
from memcomp.metrics.rounding import round_memory
from memcomp.runs.files import Record, append_records, read_records
from memcomp.runs.records import common_prefix

KINDS = ("float32", "bfloat16", "int8")  # number formats in which vectors are stored
# Fields that an answer depends on; records that agree in them answer the same question.
IDENTITY = ("lm_sha256", "texts_sha256", "num_memory", "seed", "question", "settings")


class Question(NamedTuple):
    """The first fields of a record, and the function that computes the others."""

    about: Record
    answer: Callable[[], Record]


def build_recipe(base: str, **overrides: Any) -> Recipe:
    """Returns the recipe `base` of `RECIPES` with some fields replaced."""
    return dataclasses.replace(RECIPES[base], **overrides)


def identity(record: Record, keys: tuple[str, ...] = IDENTITY) -> str:
    """Returns a string that is equal for two records if they agree in `keys`."""
    return json.dumps([record[key] for key in keys], sort_keys=True)


def ask(
    path: epath.Path, asked: list[Question], answered: Callable[[Record], None]
) -> None:
    """Answers the questions that have no record in the file yet.

    Args:
      path: the file of records.
      asked: the questions.
      answered: called with each new record.
    """
    known = {identity(r, IDENTITY) for r in read_records(path)}
    for about, answer in asked:
        if identity(about, IDENTITY) in known:
            continue
        # Programs of another recipe are not needed again. On a CPU their number is limited:
        # a few hundred of them use all memory maps that a process may have.
        jax.clear_caches()
        record = about | answer()
        append_records(path, [record])
        answered(record)


def horizon(lm: LanguageModel, texts: list[Text], cfg: CramConfig) -> Record:
    """Finds the horizon of every text, with token-steps until its memory and in total.

    The token-steps until the memory are those at the end of the chunk that found it.

    A horizon counts the leading tokens that greedy decoding of the stored vector gives.
    "kept" is the number of texts for which decoding from a number format still gives the
    whole prefix that was exact teacher-forced.
    """
    trials = {text.seed_id: Trial(text) for text in texts}
    longest, cost = dict.fromkeys(trials, 0), dict.fromkeys(trials, 0)

    def note(i: int, exact: int, token_steps: int) -> None:
        if exact > longest[i]:
            longest[i], cost[i] = exact, token_steps

    for moved, pool in horizons(lm, texts, cfg, Growth()):
        for trial in moved:
            note(trial.text.seed_id, trial.exact, trial.token_steps)
        trials |= {trial.text.seed_id: trial for trial in moved}
        for flown in pool.flying():
            spent = trials[flown.seed_id].token_steps + flown.token_steps
            note(flown.seed_id, flown.prefix, spent)
    held = [t for t in trials.values() if t.memory is not None]
    memory = np.stack([t.memory for t in held if t.memory is not None])
    most = max(len(t.text.tokens) for t in held)
    prefixes, kept = {}, {}
    for kind in KINDS:
        got = decode(lm, round_memory(memory, kind), most)
        prefixes[kind] = {
            t.text.seed_id: common_prefix(tokens[: len(t.text.tokens)], t.text.tokens)
            for t, tokens in zip(held, got, strict=True)
        }
        kept[kind] = sum(prefixes[kind][t.text.seed_id] >= t.exact for t in held)
    return {
        "horizon": [prefixes["float32"].get(i, 0) for i in trials],
        "token_steps": [cost[i] for i in trials],
        "token_steps_in_all": [t.token_steps for t in trials.values()],
        "steps": [t.steps for t in trials.values()],
        "held": len(held),
        "kept": kept,
    }


def to_horizons(
    lm: LanguageModel, texts: list[Text], cfg: CramConfig, path: epath.Path, theirs: Record
) -> Record:
    """Crams each text up to its horizon, if not 0, by another recipe; returns the cost.

    Args:
      lm: the language model.
      texts: the texts.
      cfg: how to cram them.
      path: file of records, which has the record of the other recipe.
      theirs: first fields of that record.
    """
    wanted = identity(theirs, IDENTITY)
    (found,) = (r for r in read_records(path) if identity(r, IDENTITY) == wanted)
    held = [i for i, horizon in enumerate(found["horizon"]) if horizon]
    results = cram(lm, [texts[i].tokens[: found["horizon"][i]] for i in held], cfg)
    return _costs(results) | {"their_token_steps": [found["token_steps"][i] for i in held]}


def at_length(
    lm: LanguageModel, texts: list[Text], cfg: CramConfig, length: int, starts: int = 1
) -> Record:
    """Crams every text at one length; returns whether it is exact, accuracy and cost.

    A text that is not exact from its first start gets `starts` - 1 further starts, all of
    which count in its cost. Its best result counts, and "exact_starts" is the number of
    exact ones (1 if the first start was exact).
    """
    first = cram(lm, [t.tokens[:length] for t in texts], cfg)
    if starts == 1:
        return _costs(first)
    failed = [i for i, result in enumerate(first) if not result.exact]
    # Each text of a call has its own random start.
    again = [texts[i].tokens[:length] for i in failed for _ in range(starts - 1)]
    others = cram(lm, again, dataclasses.replace(cfg, seed=cfg.seed + 1)) if again else []
    best, exact_starts = list(first), [1] * len(texts)
    for k, i in enumerate(failed):
        of_text = [first[i], *others[k * (starts - 1) : (k + 1) * (starts - 1)]]
        best[i] = dataclasses.replace(
            max(of_text, key=lambda result: (result.exact, result.accuracy)),
            steps=sum(result.steps for result in of_text),
            token_steps=sum(result.token_steps for result in of_text),
        )
        exact_starts[i] = sum(result.exact for result in of_text)
    return _costs(best) | {"exact_starts": exact_starts}


def _costs(results: list[CramResult]) -> Record:
    return {
        "exact": [r.exact for r in results],
        "accuracy": [r.accuracy for r in results],
        "token_steps": [r.token_steps for r in results],
        "steps": [r.steps for r in results],
    }
