"""Rows of benchmark.py that run whole jobs, all texts to their end, ours and PyTorch's."""

import functools
import importlib
import pathlib
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from launch import Config

import memcomp
from memcomp.cram.loop import cram_chunk
from memcomp.cram.recipe import RECIPES
from memcomp.cram.schedule import advance_all
from memcomp.cram.state import init_states
from memcomp.data.texts import Text, read_texts, tokenize
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.files import Record

from .timing import entry, has_pytorch, over, rates, spread


def jobs(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Compares seconds until all texts are exact or given up with PyTorch's, from samples.

    Ours count the compilation. A section with `lengths` has all texts at each of them.
    """
    section = config[name]
    lm = memcomp.load_lm(section.lm)
    whole = section_texts(section, lm)
    lengths = section.get("lengths", (section.num_tokens,))
    at_lengths = [[text.beginning(T) for text in whole] for T in lengths]
    cfg = cram_config(section, config.seed)
    texts = [text for group in at_lengths for text in group]

    def ours() -> tuple[float, int]:
        begin = time.perf_counter()
        results = [r for finished, _ in advance_all(lm, texts, cfg) for r in finished]
        return time.perf_counter() - begin, sum(result.exact for result in results)

    jax.clear_caches()
    cold, exact = ours()
    more: Record = {"unit": "seconds for all texts", "num_texts": len(texts)}
    more |= {"ours_exact": exact, "ours_seconds": cold}
    if not config.pytorch or not has_pytorch():
        yield entry(f"{name}: seconds, ours", spread([cold]), **more)
        return
    rng = np.random.default_rng(config.seed)
    found = [pytorch_sample(section, group, rng) for group in at_lengths]
    seconds = sum(f["pytorch_seconds"] for f in found)
    error = sum(f["pytorch_seconds_standard_error"] ** 2 for f in found) ** 0.5
    # The interval is two standard errors of PyTorch's sum, which comes from samples.
    sums = [seconds + shift for shift in (-2 * error, 0.0, 2 * error)]
    figure = spread([total / cold for total in sums])
    more |= {"pytorch_seconds": seconds, "pytorch_by_length": found}
    yield entry(f"{name}: PyTorch with reference / ours", figure, **more)


def pytorch_sample(
    section: Config, texts: Sequence[Text], rng: np.random.Generator
) -> Record:
    """Estimates PyTorch's seconds for texts of one length, one at a time, by a sample."""
    loops = importlib.import_module("benchmarks.torch_cramming")
    chosen = rng.permutation(len(texts))[: section.pytorch_texts]
    folder = str(memcomp.lm.load.BUILTIN) if section.lm == "builtin" else section.lm
    recipe = RECIPES["reference"]
    tokens = np.stack([text.tokens for text in texts])
    figures = loops.time_sample(folder, tokens, chosen, recipe.max_steps, recipe.patience)
    return {"num_tokens": tokens.shape[1], **figures}


def section_texts(section: Config, lm: LanguageModel) -> list[Text]:
    """Returns `num_texts` texts of a section's length, spread evenly over its source."""
    T = section.num_tokens
    whole = tokenize(lm.tokenizer, read_texts(section.texts), num_tokens=None)
    pieces = -(-section.num_texts // len(whole))  # pieces of each text, rounded up
    texts = []
    for text in whole:
        for k in range(pieces):
            start = k * len(text.tokens) // pieces
            texts.append(text.tokens[start : start + T])
    texts = [tokens for tokens in texts if len(tokens) == T][: section.num_texts]
    if len(texts) < section.num_texts:
        raise InputError(f"{section.texts} is too short for {section.num_texts} texts")
    return [Text(i, section.texts, tokens) for i, tokens in enumerate(texts)]


def cram_config(section: Config, seed: int) -> memcomp.CramConfig:
    """Makes the cram config of a section."""
    names = ("num_memory", "recipe", "batch_size", "steps_per_chunk")
    chosen = {name: section[name] for name in names if name in section}
    return memcomp.CramConfig(num_tokens=None, seed=seed, **chosen)


def refill(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Compares refilled batch slots with fixed batches, on texts of mixed difficulty.

    The hard texts are tokens drawn uniformly, which no memory of the LM can hold. All texts
    have the same length, so that both sides run one program, except that the pool changes
    to smaller ones once most of its batch slots are empty.
    """
    section = config[name]
    lm = memcomp.load_lm(section.lm)
    rng = np.random.default_rng(config.seed)
    texts = section_texts(section, lm)
    for i in rng.permutation(len(texts))[: section.num_hard]:
        drawn = rng.integers(lm.config.vocab_size, size=section.num_tokens)
        texts[i] = Text(texts[i].text_id, "random", drawn.astype(np.int32))
    cfg = cram_config(section, config.seed)
    steps: Record = {}

    def refilled() -> float:
        begin = time.perf_counter()
        results = [r for finished, _ in advance_all(lm, texts, cfg) for r in finished]
        seconds = time.perf_counter() - begin
        steps["steps_of_texts"] = spread([float(r.steps) for r in results])
        steps["exact"] = sum(r.exact for r in results)
        return 1 / seconds

    sides = {"refilled": refilled, "fixed": functools.partial(fixed, lm, texts, cfg)}
    rates(sides, 1)
    found = rates(sides, section.rounds)
    ratio = over(found["refilled"], found["fixed"])
    seconds = {side: spread([1 / r for r in values]) for side, values in found.items()}
    yield entry("refill: fixed batches / refilled places", ratio, seconds=seconds, **steps)


def fixed(lm: LanguageModel, texts: list[Text], cfg: memcomp.CramConfig) -> float:
    """Crams one batch after another, each until all its texts are done; 1 / seconds."""
    begin = time.perf_counter()
    for first in range(0, len(texts), cfg.batch_size):
        batch = texts[first : first + cfg.batch_size]
        ids = np.array([text.seed_id for text in batch], np.int32)
        tokens = np.stack([text.tokens for text in batch])
        lengths = np.full(len(batch), tokens.shape[1], np.int32)
        static = {"module": lm.module, "cfg": cfg}
        states = init_states(ids, lm.params, **static)
        while not np.all(states.done):
            states, _ = cram_chunk(states, tokens, lengths, lm.params, **static)
    return 1 / (time.perf_counter() - begin)
