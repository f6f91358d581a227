"""Scores of texts that the LM reads from vectors of compressors or of cramming."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from memcomp.compressors.chunks import split
from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, compress
from memcomp.compressors.layout import Row, check_room, join, stack_rows, text
from memcomp.compressors.registry import kind_of, load_trained
from memcomp.compressors.setup import Setup, load_start, shapes
from memcomp.cost.formulas import compress_flops, cram_step_flops
from memcomp.cram.config import CramConfig
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import baselines, start_token
from memcomp.runs.files import Record
from memcomp.studies import answers as compressed

GROUP = 64  # number of texts whose vectors are held at once

# Makes soft prompts of contexts, and a record with further fields for each context.
Make = Callable[[Sequence[np.ndarray]], tuple[SoftPrompts, list[Record]]]


class Compared(NamedTuple):
    """A compressor in a table.

    Attributes:
      name: name of its lines: its kind, and the fields in which its config differs from
        that of the first of its kind.
      setup: setup of the run, with this compressor's network.
      trained: the compressor.
    """

    name: str
    setup: Setup
    trained: TrainedCompressor


def load_compared(setup: Setup) -> list[Compared]:
    """Loads the compressor to start with and those of evaluate.beside, in this order.

    Raises:
      InputError: a file is missing, is damaged, or is for another LM.
    """
    return named([(setup, load_start(setup)), *load_beside(setup)])


def load_beside(setup: Setup) -> list[tuple[Setup, TrainedCompressor]]:
    """Loads the compressors of evaluate.beside, with a setup for each."""
    found = []
    for name in setup.settings.evaluate.beside:
        if not isinstance(name, str) or not name:
            raise InputError(
                f"evaluate.beside has {name!r}; give folders of runs, or compressors' files"
            )
        trained = load_trained(name, setup.lm)
        task = dataclasses.replace(setup.task, compressor=trained.compressor)
        found.append((setup._replace(task=task), trained))
    return found


def named(found: Sequence[tuple[Setup, TrainedCompressor]]) -> list[Compared]:
    """Gives compressors the names of their lines in the table."""
    firsts: dict[str, Any] = {}
    names: list[str] = []
    for _, trained in found:
        made: Any = trained.compressor
        kind, config = kind_of(made), vars(made.config)
        first = firsts.setdefault(kind, config)
        differ = [f"{k}={v}" for k, v in config.items() if v != first[k]]
        name = " ".join([kind, *differ])
        same = sum(other.partition(" (")[0] == name for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return [Compared(name, *one) for name, one in zip(names, found, strict=True)]


def cram_config(setup: Setup) -> CramConfig:
    """Makes the config with which the contexts of a table are crammed.

    Raises:
      InputError: a value is out of its range, or contexts do not fit the LM.
    """
    made, settings, lm = shapes(setup), setup.settings, setup.lm
    cfg = CramConfig(seed=settings.seed, **settings.evaluate.cram)
    cfg.way.before(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.int32))
    if settings.evaluate.cramming_starts and not cfg.way.is_prompt:
        raise InputError(
            f"evaluate.cram.memory is {cfg.memory!r}, which cannot begin with the vectors "
            "of a compressor; set it to vectors, or evaluate.cramming_starts to False"
        )
    num_memory = made.num_vectors if cfg.way.is_prompt else cfg.num_memory
    cfg.way.check(lm.module, num_memory)
    needed = cfg.way.num_positions(num_memory, made.context)
    if settings.evaluate.study == "answers":
        asked = settings.question.prompt + settings.question.answer
        needed = max(needed, num_memory + 1 + asked)
    check_room(needed, lm.name, lm.config.max_positions)
    return cfg


def num_crammed(one: Compared, contexts: Sequence[np.ndarray]) -> list[int]:
    """Number of vectors of crammed memory in the sequences that the LM reads."""
    if cram_config(one.setup).way.is_prompt:
        return num_vectors(one, contexts)
    return [0] * len(contexts)


def after_memory(one: Compared, wanted: Callable[..., Row]) -> Callable[..., Row]:
    """Makes the sequences that the LM reads after crammed memory.

    After a cache, the LM reads the start token first, as it did when the cache was made.
    """
    if cram_config(one.setup).way.is_prompt:
        return wanted
    first = text([start_token(one.setup.lm) or 0])
    return lambda *args: join(first, wanted(*args))


def num_vectors(one: Compared, contexts: Sequence[np.ndarray]) -> list[int]:
    """Number of vectors that a compressor makes for each context."""
    num_digests = one.setup.task.compressor.num_digests
    max_chunk = one.setup.settings.context.max_chunk
    return [num_digests * len(split(x, max_chunk)) for x in contexts]


def by_compressor(one: Compared) -> Make:
    """Returns a function that compresses contexts with a compressor.

    Its records have the cost of a context: `flops` by `compress_flops`, and `seconds`, its
    share of the time that all contexts take together once the program is compiled.
    """
    made, max_chunk = one.trained.compressor, one.setup.settings.context.max_chunk

    def flops(context: np.ndarray) -> int:
        chunks = split(context, max_chunk)
        return sum(sum(compress_flops(made, len(chunk))) for chunk in chunks)

    def make(contexts: Sequence[np.ndarray]) -> tuple[SoftPrompts, list[Record]]:
        run = functools.partial(compress, one.setup.lm, one.trained, max_chunk=max_chunk)
        run(contexts)  # compiles
        begin = time.perf_counter()
        prompts = run(contexts)  # arrays of the host: it has waited for the device
        seconds = (time.perf_counter() - begin) / len(contexts)
        return prompts, [{"flops": flops(x), "seconds": seconds} for x in contexts]

    return make


def by_cramming(
    one: Compared, report: Callable[[], None] = lambda: None, from_digests: bool = False
) -> Make:
    """Returns a function that crams contexts, into as many vectors as a compressor makes.

    In the way `cache`, they are crammed into `evaluate.cram.num_memory` cache positions.

    Its records have `context_accuracy`, the share of the context that is right,
    teacher-forced; `steps`, the gradient evaluations until all of it was right or the
    context was given up; `flops`, the cost of these steps by
    `memcomp.cost.formulas.cram_step_flops`; and `seconds`, those of `CramResult`, which
    count compilation. See `compressed.cram_contexts` for what the result shows.

    Args:
      one: the compressor.
      report: called after each chunk of steps.
      from_digests: whether cramming begins with the compressor's vectors; otherwise, with
        the recipe's.
    """
    cfg = cram_config(one.setup)

    def make(contexts: Sequence[np.ndarray]) -> tuple[SoftPrompts, list[Record]]:
        counts, starts = num_vectors(one, contexts), None
        if from_digests:
            digests, _ = by_compressor(one)(contexts)
            pairs = zip(digests.vectors, counts, strict=True)
            starts = [vectors[:count] for vectors, count in pairs]
        prompts, results = compressed.cram_contexts(
            one.setup.lm, contexts, counts, cfg, report, starts
        )
        about = []
        likelihoods = cfg.resolved_recipe().reads_likelihoods
        for result, count in zip(results, counts, strict=True):
            T, module = len(result.tokens), one.setup.lm.module
            # After a cache the LM reads the start token in place of vectors.
            read = count if cfg.way.is_prompt else 1
            step = cram_step_flops(module, T, read, loss_gradient=likelihoods)
            about.append(
                {
                    "context_accuracy": result.accuracy,
                    "steps": result.steps,
                    # Steps of a recipe that grows compute the beginning of the text.
                    "flops": sum(step) * result.token_steps // T,
                    "seconds": result.seconds,
                }
            )
        return prompts, about

    return make


def scored(
    lm: LanguageModel,
    make: Make,
    contexts: Sequence[np.ndarray],
    rows: Sequence[Row],
    num_tokens: int,
    report: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Scores each text teacher-forced, and its free-running answer.

    Args:
      lm: the language model.
      make: makes the vectors of some contexts.
      contexts: token ids of each context.
      rows: sequences with the contexts' vectors and the expected answers.
      num_tokens: largest number of tokens of an answer.
      report: called before each group of texts.
    """
    stacked, records = stack_rows(rows), []  # stacked together, so groups have one shape
    for first in range(0, len(rows), GROUP):
        report()
        group = slice(first, first + GROUP)
        prompts, about = make(contexts[group])
        own = type(stacked)(*(part[group] for part in stacked))
        forced = compressed.teacher_forced_from(lm, prompts, own)
        spoken = compressed.spoken_from(lm, prompts, rows[group], num_tokens=num_tokens)
        parts: Any = (forced, compressed.overlap(lm, spoken), about)
        for count, *found in zip(prompts.counts, *parts, strict=True):
            record = {"num_vectors": int(count)}
            records.append(record | found[0] | found[1] | found[2])
    return records


def unaided(lm: LanguageModel, texts: list[np.ndarray], length: int) -> list[Record]:
    """Scores texts of `length` tokens that the LM reads without vectors.

    `first_nats` is the cross-entropy of their first token at the start of a document.
    """
    texts = [text.astype(np.int32) for text in texts]
    found = baselines(lm, texts, num_given=0, pad_to=length, vocab_chunk=8192)
    return [
        {
            "nats_per_token": one.loss_nats,
            "accuracy": one.accuracy,
            "num_tokens": length,
            "first_nats": float(one.surprise_nats[0]),
        }
        for one in found
    ]


def with_gains(records: list[Record], without: list[Record]) -> list[Record]:
    """Adds to each record the gain of its vectors, compared to the LM without them.

    `gain_nats_per_token` is the mean over all tokens, `gain_nats_per_later_token` that over
    the tokens after the first, if there are any.
    """
    found = []
    for record, bare in zip(records, without, strict=True):
        n, gain = record["num_tokens"], bare["nats_per_token"] - record["nats_per_token"]
        gains = {"gain_nats_per_token": gain}
        if n > 1:
            later = n * gain - (bare["first_nats"] - record["first_nats"])
            gains["gain_nats_per_later_token"] = later / (n - 1)
        found.append(record | gains)
    return found
