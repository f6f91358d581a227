"""How much recipes hold, and at what cost: horizons, and shares exact by length.

  python experiments/recipe_table.py --config.lms.nano.texts=FOLDER \
      --config.lms.stories.lm=FOLDER --config.lms.stories.texts=FILE [--workdir DIR]

One record for each question, with all that its answer depends on; those that are there
already are not asked again, so that it can be stopped, and can grow in the same workdir.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from launch import Config, launch
from recipe_search import build_recipe, identity

import memcomp
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial, horizons
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.cram.result import CramResult
from memcomp.data.texts import Text, read_texts, texts_fingerprint, tokenize
from memcomp.errors import InputError
from memcomp.lm.decode import decode
from memcomp.lm.protocol import LanguageModel
from memcomp.metrics.rounding import round_memory
from memcomp.ranges import check_seed
from memcomp.runs.cramming import environment
from memcomp.runs.files import RECORDS, Record, append_records, claim_workdir, read_records
from memcomp.runs.records import common_prefix

DEFAULT_WORKDIR = "runs/recipe_table"
KINDS = ("float32", "bfloat16", "int8")  # as which the vectors are stored
BASE = "default"
# What an answer depends on: records that differ in one of these answer different questions.
IDENTITY = ("lm_sha256", "texts_sha256", "num_memory", "seed", "question", "settings")


class Question(NamedTuple):
    """What a record begins with, and what gives the rest of it."""

    about: Record
    answer: Callable[[], Record]


def main(config: Config, workdir: str | None) -> None:
    """Config to library to the records of a table."""
    lms = {name: one for name, one in config.lms.items() if one.texts is not None}
    check_seed("texts_seed", config.texts_seed)
    if not lms:
        raise InputError("no LM has texts; set config.lms.NAME.texts")
    if config.starts < 1:
        raise InputError(f"starts is {config.starts}; give each text 1 or more")
    for name, one in lms.items():
        lm = memcomp.load_lm(one.lm)
        texts = held_out(lm, one, config)
        folder = claim_workdir(
            workdir or DEFAULT_WORKDIR, {"grid": "recipe_table"}, environment()
        )
        path = folder / RECORDS
        ask(path, questions(lm, name, texts, one, config, path))
    print(table(read_records(path)))


def held_out(lm: LanguageModel, one: Any, config: Any) -> list[Text]:
    """Every second passage, in an order by seed."""
    found = read_texts(one.texts, **one.read)[1::2]
    order = np.random.default_rng(config.texts_seed).permutation(len(found))
    if len(order) < config.num_texts:
        raise InputError(
            f"{one.texts} gives {len(order)} texts with {dict(one.read)}; "
            f"wanted {config.num_texts}: ask for more there"
        )
    chosen = [found[i] for i in order[: config.num_texts]]
    return tokenize(lm.tokenizer, chosen, num_tokens=one.most)


def questions(
    lm: LanguageModel, name: str, texts: list[Text], one: Any, config: Any, path: epath.Path
) -> list[Question]:
    """All questions of one LM, in the order in which one may need another's answer."""
    cfg = memcomp.CramConfig(
        num_tokens=None,
        num_memory=config.num_memory,
        seed=config.seed,
        batch_size=config.batch_size,
        steps_per_chunk=config.steps_per_chunk,
    )
    common = {
        "lm": name,
        "lm_sha256": lm.fingerprint[:12],
        "texts_sha256": texts_fingerprint(texts)[:12],
        "num_memory": config.num_memory,
        "seed": config.seed,
    }

    def about(question: str, recipe_name: str, recipe: Recipe, **more: Any) -> Record:
        settings = dataclasses.asdict(recipe) | more
        asked = {"question": question, "recipe": recipe_name, "settings": settings}
        return common | asked

    asked, horizon_of = [], {}
    for recipe_name, fields in config.recipes.items():
        overrides = dict(fields)
        first, factor = overrides.pop("growth")
        recipe = build_recipe(**overrides)
        this = about("horizon", recipe_name, recipe, growth=[first, factor])
        horizon_of[recipe_name] = this
        of_recipe = dataclasses.replace(cfg, recipe=recipe)
        growth = Growth(first=first, factor=factor)
        answer = functools.partial(horizon, lm, texts, of_recipe, growth)
        asked.append(Question(this, answer))
    base = dataclasses.replace(cfg, recipe=BASE)
    for other in config.compared:
        theirs = horizon_of[other]
        question = f"to the horizon of {other}"
        this = about(question, BASE, RECIPES[BASE], theirs=theirs["settings"])
        answer = functools.partial(to_horizons, lm, texts, base, path, theirs)
        asked.append(Question(this, answer))
    for recipe_name in config.at_lengths:
        named = dataclasses.replace(cfg, recipe=recipe_name)
        starts = config.starts
        with_starts = f", {starts} starts" if starts > 1 else ""
        for length in one.lengths:
            question = f"{length} tokens{with_starts}"
            this = about(question, recipe_name, RECIPES[recipe_name])
            answer = functools.partial(at_length, lm, texts, named, length, starts)
            asked.append(Question(this, answer))
    return asked


def ask(path: epath.Path, asked: list[Question]) -> None:
    """Answers what has no record yet."""
    known = {identity(r, IDENTITY) for r in read_records(path)}
    for about, answer in asked:
        if identity(about, IDENTITY) in known:
            continue
        # Programs of another recipe are not needed again, and on a CPU their number is
        # limited: some hundreds of them take all memory maps that a process may have.
        jax.clear_caches()
        record = about | answer()
        append_records(path, [record])
        print(line(record), file=sys.stderr, flush=True)


def horizon(
    lm: LanguageModel, texts: list[Text], cfg: CramConfig, growth: Growth
) -> Record:
    """Horizon of every text, token-steps until its memory was found, and in all.

    A horizon is what the stored vector decodes to, greedily; "kept" says for how many texts
    all that was exact teacher-forced still does when the vector is stored in fewer bits.
    """
    trials = {text.seed_id: Trial(text) for text in texts}
    cost = dict.fromkeys(trials, 0)
    for moved, _ in horizons(lm, texts, cfg, growth):
        for trial in moved:
            if trial.exact > trials[trial.text.seed_id].exact:
                cost[trial.text.seed_id] = trial.token_steps
            trials[trial.text.seed_id] = trial
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
    """Token-steps of every text at the length that its horizon by `theirs` is.

    Args:
      path: the records; that which begins as `theirs` has been written.
    """
    wanted = identity(theirs, IDENTITY)
    (found,) = (r for r in read_records(path) if identity(r, IDENTITY) == wanted)
    pairs = [(t, n) for t, n in zip(texts, found["horizon"], strict=True) if n]
    results = cram(lm, [t.tokens[:n] for t, n in pairs], cfg)
    return _costs(results) | {"their_token_steps": found["token_steps"]}


def at_length(
    lm: LanguageModel, texts: list[Text], cfg: CramConfig, length: int, starts: int = 1
) -> Record:
    """Share exact, accuracy and token-steps of every text at one length.

    A text that is not exact from its first start is given `starts` - 1 others, all of which
    are paid for; its best result counts, and "exact_starts" says how many were exact (of
    one start where the first was).
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
