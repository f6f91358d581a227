"""How much recipes hold, and at what cost: horizons, and shares exact by length.

  python experiments/recipe_table.py --config.lms.nano.texts=FOLDER \
      --config.lms.stories.lm=FOLDER --config.lms.stories.texts=FILE [--workdir DIR]

One record for each LM, recipe and question; those that are there already are not asked
again, so that it can be stopped, and can grow in the same workdir.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from launch import launch
from ml_collections import config_dict
from recipe_search import build_recipe

import memcomp
from memcomp.cram.api import cram
from memcomp.cram.horizon import Growth, Trial, horizons
from memcomp.data.texts import Text, read_texts, tokenize
from memcomp.errors import InputError
from memcomp.evaluation.decoding import decode
from memcomp.evaluation.rounding import round_memory
from memcomp.evaluation.runs import describe
from memcomp.lm import LanguageModel
from memcomp.results import RECORDS, Record, append_records, claim_workdir, read_records

DEFAULT_WORKDIR = "runs/recipe_table"
KINDS = ("float32", "bfloat16", "int8")  # as which the vectors are stored
BASE = "default"


def main(config: config_dict.ConfigDict, workdir: str | None) -> None:
    """Config to library to the records of a table."""
    lms = {name: one for name, one in config.lms.items() if one.texts is not None}
    if not lms:
        raise InputError("no LM has texts; set config.lms.NAME.texts")
    for name, one in lms.items():
        lm = memcomp.load_lm(one.lm)
        texts = held_out(lm, one, config)
        about = claim_workdir(
            workdir or DEFAULT_WORKDIR, {"grid": "recipe_table"}, describe(lm)
        )
        ask(about / RECORDS, name, questions(lm, texts, one, config), config)
    print(table(read_records(about / RECORDS)))


def held_out(lm: LanguageModel, one: Any, config: Any) -> list[Text]:
    """Every second passage, in an order by seed."""
    found = read_texts(one.texts, passages=one.passages)[1::2]
    order = np.random.default_rng(config.texts_seed).permutation(len(found))
    if len(order) < config.num_texts:
        raise InputError(
            f"{one.texts} gives {len(order)} texts with passages = {one.passages}; "
            f"wanted {config.num_texts}: ask for more passages"
        )
    chosen = [found[i] for i in order[: config.num_texts]]
    return tokenize(lm.tokenizer, chosen, num_tokens=one.most)


def questions(
    lm: LanguageModel, texts: list[Text], one: Any, config: Any
) -> dict[tuple[str, str], Callable[[dict[str, Record]], Record]]:
    """(Question, recipe) -> what answers it, given the horizons of other recipes."""
    cfg = memcomp.CramConfig(
        num_tokens=None,
        num_memory=config.num_memory,
        seed=config.seed,
        batch_size=config.batch_size,
        steps_per_chunk=config.steps_per_chunk,
    )
    asked: dict[tuple[str, str], Any] = {}
    for name, fields in config.recipes.items():
        overrides = dict(fields)
        first, factor = overrides.pop("growth")
        recipe = build_recipe(**overrides)
        asked["horizon", name] = functools.partial(
            horizon,
            lm,
            texts,
            dataclasses.replace(cfg, recipe=recipe),
            Growth(first=first, factor=factor),
        )
    for recipe in config.compared:
        asked[f"to the horizon of {recipe}", BASE] = functools.partial(
            to_horizons, lm, texts, dataclasses.replace(cfg, recipe=BASE), recipe
        )
    for recipe in config.at_lengths:
        for length in one.lengths:
            named = dataclasses.replace(cfg, recipe=recipe)
            asked[f"{length} tokens", recipe] = functools.partial(
                at_length, lm, texts, named, length
            )
    return asked


def ask(path: Any, lm: str, asked: dict[tuple[str, str], Any], config: Any) -> None:
    """Answers what has no record yet."""
    known = {
        (r["question"], r["recipe"]): r
        for r in read_records(path)
        if (r["lm"], r["num_memory"]) == (lm, config.num_memory)
    }
    for (question, recipe), answer in asked.items():
        if (question, recipe) in known:
            continue
        # Programs of another recipe are not needed again, and on a CPU their number is
        # limited: some hundreds of them take all memory maps that a process may have.
        jax.clear_caches()
        found = {r: known["horizon", r] for q, r in known if q == "horizon"}
        record = {
            "lm": lm,
            "num_memory": config.num_memory,
            "question": question,
            "recipe": recipe,
            **answer(found),
        }
        append_records(path, [record])
        known[question, recipe] = record
        print(line(record), file=sys.stderr, flush=True)


def horizon(lm, texts, cfg, grow, found) -> Record:
    """Of every text: its horizon, and token-steps until its memory was found, and in all.

    A horizon counts if the stored vector decodes to it greedily; "kept" says for how many
    texts it still does when stored in fewer bits.
    """
    trials = {text.text_id: Trial(text) for text in texts}
    cost = dict.fromkeys(trials, 0)
    for moved, _ in horizons(lm, texts, cfg, grow):
        for trial in moved:
            if trial.exact > trials[trial.text.text_id].exact:
                cost[trial.text.text_id] = trial.token_steps
            trials[trial.text.text_id] = trial
    held = [t for t in trials.values() if t.memory is not None]
    memory = np.stack([t.memory for t in held if t.memory is not None])
    most = max(t.exact for t in held)
    kept = {}
    for kind in KINDS:
        got = decode(lm, round_memory(memory, kind), most)
        pairs = zip(held, got, strict=True)
        same = [bool((g[: t.exact] == t.text.tokens[: t.exact]).all()) for t, g in pairs]
        kept[kind] = sum(same)
        if kind == "float32":
            greedy = {t.text.text_id: t.exact * s for t, s in zip(held, same, strict=True)}
    return {
        "horizon": [greedy.get(i, 0) for i in trials],
        "token_steps": [cost[i] for i in trials],
        "token_steps_in_all": [t.token_steps for t in trials.values()],
        "steps": [t.steps for t in trials.values()],
        "held": len(held),
        "kept": kept,
    }


def to_horizons(lm, texts, cfg, recipe, found) -> Record:
    """Token-steps of every text at the length that another recipe's horizon is."""
    lengths = found[recipe]["horizon"]
    pairs = [(t, n) for t, n in zip(texts, lengths, strict=True) if n]
    results = cram(lm, [t.tokens[:n] for t, n in pairs], cfg)
    return _costs(results) | {"their_token_steps": found[recipe]["token_steps"]}


def at_length(lm, texts, cfg, length, found) -> Record:
    """Share exact, accuracy and token-steps of every text at one length."""
    return _costs(cram(lm, [t.tokens[:length] for t in texts], cfg))


def _costs(results) -> Record:
    return {
        "exact": [r.exact for r in results],
        "accuracy": [r.accuracy for r in results],
        "token_steps": [r.token_steps for r in results],
        "steps": [r.steps for r in results],
    }


HEAD = (
    "| LM | vectors | question | recipe | n | horizon, tokens | exact, % | accuracy, % "
    "| token-steps | stored in bf16, int8 |\n|---|---|---|---|---|---|---|---|---|---|"
)


def line(record: Record) -> str:
    """A row of the table: means, with standard errors over texts."""

    def cell(name: str, scale: float = 1, digits: int = 0) -> str:
        if name not in record:
            return "-"
        values = scale * np.array(record[name], float)
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return f"{values.mean():.{digits}f} ± {error:.{digits}f}"

    kept, held = record.get("kept"), record.get("held")
    cells = (
        record["lm"],
        record["num_memory"],
        record["question"],
        record["recipe"],
        len(record["token_steps"]),
        cell("horizon", digits=2),
        cell("exact", 100),
        cell("accuracy", 100, 1),
        cell("token_steps"),
        f"{kept['bfloat16']} and {kept['int8']} of {held}" if kept else "-",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def table(records: list[Record]) -> str:
    """All records, in Markdown."""
    order = sorted(records, key=lambda r: (r["lm"], r["num_memory"]))
    return "\n".join([HEAD, *(line(r) for r in order)])


if __name__ == "__main__":
    launch(main, "recipe_table.py")
