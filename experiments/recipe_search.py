"""Compares recipes by the share of texts that are decoded exactly, and by the cost.

  python experiments/recipe_search.py --config configs/recipe_search.py:final \
      --config.lms.nano.texts=FOLDER --config.lms.stories.lm=FOLDER \
      --config.lms.stories.texts=FILE [--workdir DIR]

There is one record for each LM, length and recipe. Existing records are not computed again,
so a grid can be stopped, and can grow in the same workdir.
"""

import dataclasses
import hashlib
import sys
from typing import Any

import jax
import numpy as np
import tqdm
from launch import Config, launch

import memcomp
from memcomp.cram.api import cram
from memcomp.data.texts import read_texts, tokenize
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_seed
from memcomp.runs.cramming import environment
from memcomp.runs.files import RECORDS, append_records, claim_workdir, read_records
from memcomp.studies.recipe_costs import build_recipe, identity, shares_exact

DEFAULT_WORKDIR = "runs/recipe_search"
# Fields that identify a run: records that differ in one of them are of different runs.
IDENTITY = ("lm_sha256", "texts_sha256", "num_tokens", "num_memory", "seed", "settings")


def main(config: Config, workdir: str | None) -> None:
    """Runs the grid, writes its records and prints the table."""
    lms = {n: one for n, one in config.lms.items() if one.texts is not None and one.lengths}
    check_seed("texts_seed", config.texts_seed)
    if not lms:
        raise InputError("no LM has texts; set config.lms.NAME.texts")
    for name, one in lms.items():
        lm = memcomp.load_lm(one.lm)
        # The grid may grow in the same workdir, as a record has all that it depends on.
        grid = {"grid": "recipe_search"}
        path = claim_workdir(workdir or DEFAULT_WORKDIR, grid, environment()) / RECORDS
        run_lm(lm, name, one, config, path)
    print(table(read_records(path)))


def run_lm(lm: LanguageModel, name: str, one: Any, config: Any, path: Any) -> None:
    """Runs all lengths and recipes of one LM that have no record yet."""
    done = {identity(r, IDENTITY) for r in read_records(path)}
    texts = choose_texts(lm, one, config)
    for length in one.lengths:
        for named in config.recipes:
            overrides = dict(named)
            recipe_name = overrides.pop("name")
            recipe = build_recipe(**overrides)
            about = {
                "lm": name,
                "lm_sha256": lm.fingerprint[:12],
                "split": config.split,
                "texts_sha256": hash_of(texts),
                "num_tokens": length,
                "num_memory": config.num_memory,
                "recipe": recipe_name,
                "seed": config.seed,
                "settings": dataclasses.asdict(recipe),
            }
            if identity(about, IDENTITY) in done:
                continue
            cfg = memcomp.CramConfig(
                num_tokens=length,
                num_memory=config.num_memory,
                recipe=recipe,
                seed=config.seed,
                batch_size=config.batch_size,
                steps_per_chunk=config.steps_per_chunk,
                vocab_chunk=config.vocab_chunk,
            )
            # Programs of another recipe are not needed again, and on a CPU their number is
            # limited; see `memcomp.studies.recipe_costs.ask`.
            jax.clear_caches()
            what = f"{name}, {length} tokens, {recipe_name}"
            with tqdm.tqdm(desc=what, unit="chunk", mininterval=5, leave=False) as bar:
                results = cram(lm, [t[:length] for t in texts], cfg, bar.update)
            record = about | shares_exact(lm, results)
            append_records(path, [record])
            print(line(record), file=sys.stderr, flush=True)


def choose_texts(lm: LanguageModel, one: Any, config: Any) -> list[np.ndarray]:
    """Returns the tokens of the split's texts, a slice of one shuffled list."""
    found = read_texts(one.texts, passages=one.passages)
    order = np.random.default_rng(config.texts_seed).permutation(len(found))
    chosen = order[config.first_text : config.first_text + config.num_texts]
    if len(chosen) < config.num_texts:
        raise InputError(
            f"{one.texts} gives {len(found)} texts with passages = {one.passages}; "
            f"wanted {config.first_text + config.num_texts}: ask for more passages"
        )
    cut = [found[i] for i in chosen]
    return [t.tokens for t in tokenize(lm.tokenizer, cut, num_tokens=max(one.lengths))]


def hash_of(texts: list[np.ndarray]) -> str:
    """Fingerprint of the first 4 tokens of each text, so independent of their lengths."""
    return hashlib.sha256(np.stack([t[:4] for t in texts]).tobytes()).hexdigest()[:12]


HEAD = (
    "| LM | split | tokens | vectors | recipe | n | exact, greedy, % "
    "| of exact, kept in bf16 | steps | median steps of exact | token-steps |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def line(record: dict[str, Any]) -> str:
    """Returns a line of the table for a run: means, with standard errors over texts."""
    s, texts = record["summary"], record["per_text"]
    exact = [n for n, e in zip(texts["steps"], texts["exact"], strict=True) if e == "1"]
    pairs = zip(texts["exact"], texts["greedy_bfloat16"], strict=True)
    kept = sum(a == b == "1" for a, b in pairs)

    def cell(name, scale=1):
        mean, error = s[name]["mean"] * scale, s[name]["standard_error"] or 0.0
        return f"{mean:.0f} ± {error * scale:.0f}"

    cells = (
        f"{record['lm']} {record['lm_sha256'][:8]}",
        record["split"],
        record["num_tokens"],
        record["num_memory"],
        record["recipe"],
        s["n"],
        cell("exact_greedy", 100),
        f"{kept} of {len(exact)}",
        cell("steps"),
        f"{np.median(exact):.0f}" if exact else "-",
        cell("token_steps"),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def table(records: list[dict[str, Any]]) -> str:
    """Returns all runs in Markdown, by LM, split and length, most exact ones first."""

    def order(r):
        s = r["summary"]
        cost = -s["exact_greedy"]["mean"], s["token_steps"]["mean"]
        return (r["lm"], r["split"], r["num_memory"], r["num_tokens"], *cost)

    return "\n".join([HEAD, *(line(r) for r in sorted(records, key=order))])


if __name__ == "__main__":
    launch(main, "recipe_search.py")
