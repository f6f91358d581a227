"""Compares recipes by horizon, by share of exact texts at a length, and by their cost.

  python experiments/recipe_table.py --config.lms.nano.texts=FOLDER \
      --config.lms.stories.lm=FOLDER --config.lms.stories.texts=FILE [--workdir DIR]
  python experiments/recipe_table.py --config configs/recipe_table.py:real \
      --config.lms.real.lm=DIR --config.lms.real.texts=FOLDER [--workdir DIR]

There is one record for each question, with all that its answer depends on. Existing records
are not computed again, so a table can be stopped, and can grow in the same workdir.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from launch import Config, launch

import memcomp
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.data.texts import Text, read_texts, texts_fingerprint, tokenize
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_choice, check_seed
from memcomp.runs.cramming import environment
from memcomp.runs.files import RECORDS, Record, claim_workdir, read_records
from memcomp.studies.recipe_costs import (
    Question,
    ask,
    at_length,
    build_recipe,
    horizon,
    to_horizons,
)

DEFAULT_WORKDIR = "runs/recipe_table"
BASE = "default"


def main(config: Config, workdir: str | None) -> None:
    """Answers the questions, writes the records and prints the table."""
    lms = {name: one for name, one in config.lms.items() if one.texts is not None}
    check_seed("texts_seed", config.texts_seed)
    if not lms:
        raise InputError("no LM has texts; set config.lms.NAME.texts")
    if config.starts < 1:
        raise InputError(f"starts is {config.starts}; give each text 1 or more")
    recipes = recipes_of(config)
    for name, one in lms.items():
        lm = memcomp.load_lm(one.lm)
        texts = choose_texts(lm, one, config)
        folder = claim_workdir(
            workdir or DEFAULT_WORKDIR, {"grid": "recipe_table"}, environment()
        )
        path = folder / RECORDS
        ask(path, questions(lm, name, texts, one, config, recipes, path), show)
    print(table(read_records(path)))


def recipes_of(config: Any) -> dict[str, Recipe]:
    """Returns the recipes by name; raises `InputError` where a name asked for is none."""
    for name, fields in config.recipes.items():
        check_choice(f"the base of {name!r}", fields.base, RECIPES)
    for field in ("horizons", "at_lengths"):
        for name in config[field]:
            check_choice(field, name, config.recipes)
    for name in config.compared:
        check_choice("compared", name, config.horizons)
    return {name: build_recipe(**fields) for name, fields in config.recipes.items()}


def choose_texts(lm: LanguageModel, one: Any, config: Any) -> list[Text]:
    """Returns a slice of the passages, in a random order by `texts_seed`."""
    found = read_texts(one.texts, **one.read)
    if config.held_out:
        found = found[1::2]
    order = np.random.default_rng(config.texts_seed).permutation(len(found))
    wanted = config.first_text + config.num_texts
    if len(order) < wanted:
        raise InputError(
            f"{one.texts} gives {len(order)} texts with {dict(one.read)}; wanted {wanted}: "
            "ask for more there"
        )
    chosen = [found[i] for i in order[config.first_text : wanted]]
    return tokenize(lm.tokenizer, chosen, num_tokens=one.most)


def questions(
    lm: LanguageModel,
    name: str,
    texts: list[Text],
    one: Any,
    config: Any,
    recipes: Mapping[str, Recipe],
    path: epath.Path,
) -> list[Question]:
    """Returns all questions of one LM; some need the answers of earlier ones."""
    cfg = memcomp.CramConfig(
        num_tokens=None,
        num_memory=config.num_memory,
        seed=config.seed,
        batch_size=config.batch_size,
        steps_per_chunk=config.steps_per_chunk,
        vocab_chunk=config.vocab_chunk,
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
    for recipe_name in config.horizons:
        recipe = recipes[recipe_name]
        this = about("horizon", recipe_name, recipe)
        horizon_of[recipe_name] = this
        of_recipe = dataclasses.replace(cfg, recipe=recipe)
        answer = functools.partial(horizon, lm, texts, of_recipe)
        asked.append(Question(this, answer))
    base = dataclasses.replace(cfg, recipe=BASE)
    for other in config.compared:
        theirs = horizon_of[other]
        question = f"to the horizon of {other}"
        this = about(question, BASE, RECIPES[BASE], theirs=theirs["settings"])
        answer = functools.partial(to_horizons, lm, texts, base, path, theirs)
        asked.append(Question(this, answer))
    for recipe_name in config.at_lengths:
        named = dataclasses.replace(cfg, recipe=recipes[recipe_name])
        starts = config.starts
        with_starts = f", {starts} starts" if starts > 1 else ""
        for length in one.lengths:
            question = f"{length} tokens{with_starts}"
            this = about(question, recipe_name, recipes[recipe_name])
            answer = functools.partial(at_length, lm, texts, named, length, starts)
            asked.append(Question(this, answer))
    return asked


def show(record: Record) -> None:
    """Prints a new record, as a line of the table."""
    print(line(record), file=sys.stderr, flush=True)


HEAD = (
    "| LM | vectors | question | recipe | n | horizon, tokens | exact, % | accuracy, % "
    "| token-steps | stored in bf16, int8 |\n|---|---|---|---|---|---|---|---|---|---|"
)


def line(record: Record) -> str:
    """Returns a line of the table: means, with standard errors over texts."""

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
    """Returns the table of all records in Markdown."""
    order = sorted(records, key=lambda r: (r["lm"], r["num_memory"]))
    return "\n".join([HEAD, *(line(r) for r in order)])


if __name__ == "__main__":
    launch(main, "recipe_table.py")
