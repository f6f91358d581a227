"""What the stages of experiments/icformer.py are made of: LM, compressor, data."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import grain
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Int64
from launch import Config
from pretrain_lm import documents

from memcomp.compressors.batches import (
    Examples,
    Finetuning,
    Pretraining,
    Shapes,
    micro_batches,
)
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.icformer.checkpoint_file import BESIDE, load_published
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.layout import SPECIAL, check_room
from memcomp.compressors.objectives import Task
from memcomp.compressors.registry import COMPRESSORS, load_compressor, make_compressor
from memcomp.compressors.templates import Template, make_template
from memcomp.compressors.training import TrainConfig
from memcomp.data.contexts import (
    Contexts,
    QuestionTokens,
    context_batches,
    fitting,
    question_batches,
)
from memcomp.data.documents import find_documents
from memcomp.data.pwc import find_pwc
from memcomp.data.ragged import Padded, Ragged, cached_ragged, tokenized
from memcomp.disk import path_of
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.training_log import say
from memcomp.sharding import make_mesh

COMPRESSOR = "compressor.safetensors"
FRESH = "fresh"  # what config.start says for random weights


class Parts(NamedTuple):
    """What all stages have."""

    mesh: Mesh
    lm: LanguageModel
    task: Task


class Data(NamedTuple):
    """What a run trains on and is watched by.

    Attributes:
      batches: of `Batch`, each array with an axis of micro-batches.
      valid: examples that are not trained on, by the name of what they ask for.
      counts: what was left out of the data, for summary.json.
    """

    batches: grain.MapDataset
    valid: dict[str, Examples]
    counts: dict[str, int]


def load_parts(config: Config) -> Parts:
    """The LM on its mesh, and what is trained for it."""
    if config.compressor not in COMPRESSORS:  # before it is read as a section
        raise InputError(
            f"compressor {config.compressor!r} is not one of {', '.join(COMPRESSORS)}"
        )
    mesh = make_mesh(**config.mesh)
    how = {"remat": config.remat, "attention": config.attention}
    lm = load_lm(config.lm, dtype=config.dtype, mesh=mesh, **how)
    entries = config[config.compressor].to_dict()
    compressor = make_compressor(config.compressor, lm.module, entries)
    objective = config.objective
    task = Task(lm.module, compressor, objective.average, objective.distillation)
    return Parts(mesh, lm, task)


def load_start(config: Config, parts: Parts) -> TrainedCompressor:
    """The compressor that the config says to start with, which must be of its kind.

    Raises:
      InputError: there is none, or one of other sizes.
    """
    if not config.start:
        raise InputError(
            f"stage {config.stage} needs a trained compressor; give --config.start=FOLDER "
            f"of a run, or a {COMPRESSOR}"
        )
    trained, task = load_trained(config.start, parts.lm), parts.task
    if _written_out(trained.compressor) != _written_out(task.compressor):
        raise InputError(
            f"{config.start} holds a compressor with {trained.compressor.config}, but the "
            f"config says {task.compressor.config}; give the same --config.compressor and "
            "sizes"
        )
    return trained


def load_trained(name: str, lm: LanguageModel) -> TrainedCompressor:
    """A compressor of ours, or of IC-Former's authors, who may leave out FT: then 0.

    Args:
      name: of a run's folder, of a compressor's file, or of what the authors saved.
      lm: the language model.

    Raises:
      InputError: there is none, or one for another LM.
    """
    path = path_of(name)
    if path.is_dir() and (path / BESIDE).exists():
        compressor, params = load_published(pathlib.Path(path), lm.module)
        zeros = {name: np.zeros(lm.config.d_model, np.float32) for name in SPECIAL}
        return TrainedCompressor(compressor, zeros | params, lm.name, lm.fingerprint)
    return load_compressor(path / COMPRESSOR if path.is_dir() else path, lm)


def _written_out(compressor: Any) -> tuple[type, Any]:
    """Its kind and config, with the LM's sizes where the config leaves them to the LM."""
    config = compressor.config
    if isinstance(config, ICFormerConfig):
        sizes = config.sizes(compressor.lm_module.config)._asdict()
        del sizes["d_model"]
        # How digests began is over, and the authors' files do not say it.
        config = dataclasses.replace(config, **sizes, digest_init="zeros")
    return type(compressor), config


def train_config(config: Config) -> TrainConfig:
    """The section `train`, whose schedule_options are a section of their own."""
    entries = config.train.to_dict()
    options = tuple(sorted(entries.pop("schedule_options").items()))
    return TrainConfig(**entries, schedule_options=options, dtype=config.dtype)


def shapes(config: Config, parts: Parts) -> Shapes:
    """Sizes of contexts and rows."""
    return Shapes(
        num_digests=parts.task.compressor.num_digests,
        context=config.context.length,
        max_chunk=config.context.max_chunk,
        teacher=config.objective.distillation > 0,
        eos=getattr(parts.lm.tokenizer, "eos_token_id", None),
    )


def pretraining(config: Config, parts: Parts) -> Pretraining:
    """The objectives of stage pretrain, for which the LM has room."""
    names = ("continuation", "continuation_ratio", "min_continuation", "num_given")
    options = {name: config.objective[name] for name in names}
    made = Pretraining(shapes(config, parts), **options)
    if made.shapes.teacher and not made.continuation_ratio:
        raise InputError(
            "objective.distillation has no teacher where all rows reproduce their context; "
            "set it to 0, or raise objective.continuation_ratio"
        )
    _check_positions(made, parts)
    return made


def finetuning(config: Config, parts: Parts) -> Finetuning:
    """The objective of stage finetune, for which the LM has room."""
    ask = config.question
    made = Finetuning(
        shapes(config, parts), template(config, parts), ask.prompt, ask.answer
    )
    _check_positions(made, parts)
    return made


def template(config: Config, parts: Parts) -> Template:
    """What stands around contexts and prompts."""
    if parts.lm.tokenizer is None:
        raise InputError(f"{parts.lm.name} has no tokenizer, which questions need")
    return make_template(config.question.template, parts.lm.tokenizer)


def _check_positions(made: Pretraining | Finetuning, parts: Parts) -> None:
    """Raises `InputError` where the LM, or the compressor, has no room for a run."""
    needed = max(made.length, made.teacher_length if made.shapes.teacher else 0)
    check_room(needed, parts.lm.name, parts.lm.config.max_positions)
    shapes = made.shapes
    check_chunks(min(shapes.max_chunk or shapes.context, shapes.context), parts)


def check_chunks(width: int, parts: Parts) -> None:
    """Raises `InputError` where the compressor takes no chunks of `width` tokens."""
    compressor = parts.task.compressor
    params = nn.unbox(jax.eval_shape(compressor.init, jax.random.key(0)))
    chunk = jax.ShapeDtypeStruct((1, width), np.int32)
    length = jax.ShapeDtypeStruct((1,), np.int32)
    jax.eval_shape(compressor.digest, params, parts.lm.params, chunk, length)


def pretraining_of_texts(config: Config, parts: Parts) -> Pretraining:
    """`pretraining`, where there is text, and what it begins with if anything.

    Raises:
      InputError: there is none.
    """
    check_text("texts", config.texts, config.field)
    if config.valid:
        check_text("valid", config.valid, config.field)
    least, length = config.context.min_length, config.context.length
    if least is not None and not 1 <= least <= length:
        raise InputError(
            f"context.min_length is {least}; give 1 to context.length = {length}, or None"
        )
    if config.start not in ("", FRESH):
        load_start(config, parts)
    return pretraining(config, parts)


def check_text(name: str, source: str, field: str) -> None:
    """Raises `InputError` where the field `name` of the config names no text."""
    if not source or next(document_texts(source, field), None) is None:
        raise InputError(
            f"{name} is {source!r}, where there is no text; give --config.{name}=FOLDER"
        )


def finetuning_of_questions(config: Config, parts: Parts) -> Finetuning:
    """`finetuning`, where there are questions, and a compressor to begin with.

    Raises:
      InputError: there are none, or nothing is said of what to begin with.
    """
    find_pwc("train", config.manual_dir or None)
    if not config.start:
        raise InputError(
            "stage finetune begins with a trained compressor; give --config.start=FOLDER "
            f"of a run, or --config.start={FRESH} for random weights"
        )
    if config.start != FRESH:
        load_start(config, parts)
    return finetuning(config, parts)


def pretraining_data(
    config: Config, parts: Parts, made: Pretraining, folder: epath.Path
) -> Data:
    """Windows of documents."""
    cfg = train_config(config)
    train = document_tokens(config, parts, config.texts, folder / "tokens" / "train")
    here = dict(process_index=jax.process_index(), process_count=jax.process_count())
    sizes = dict(length=config.context.length, continuation=made.continuation)
    windows = context_batches(
        train,
        **sizes,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=config.seed,
        min_length=config.context.min_length,
        by_tokens=config.context.by_tokens,
        **here,
    )
    batches = made.batches(windows, seed=config.seed, batch_size=cfg.batch_size, **here)
    valid = {}
    if config.valid and config.num_valid:
        held = document_tokens(config, parts, config.valid, folder / "tokens" / "valid")
        held: Any = context_batches(
            held, **sizes, batch_size=config.num_valid, num_batches=1, seed=0
        )[0]
        goes_on = held.context.lengths < 0  # none
        if config.objective.continuation_ratio < 1:
            valid["reconstruction"] = made.examples(held, goes_on)
        if config.objective.continuation_ratio > 0:
            # A document that ends before would be reproduced in their place.
            long = held.continuation.lengths >= made.min_continuation
            if long.any():
                held = Contexts(*(Padded(*(x[long] for x in part)) for part in held))
                valid["continuation"] = made.examples(held, ~goes_on[long])
    return Data(micro_batches(batches, cfg.accumulation), valid, {})


def document_tokens(
    config: Config, parts: Parts, source: str, folder: epath.Path
) -> Ragged:
    """Tokens of whole documents, made once for each workdir."""

    def make() -> Iterator[tuple[Any, ...]]:
        say(f"tokenizing {source}")
        return tokenized(
            parts.lm.tokenizer,
            document_texts(source, config.field),
            special_tokens=config.special_tokens,
        )

    (tokens,) = cached_ragged(folder, ("text",), make)
    return tokens


def document_texts(source: str, field: str) -> Iterator[tuple[str]]:
    """Documents of .jsonl files, of which duplicates are left out; or any others."""
    try:
        jsonl = find_documents(source)[0].suffix == ".jsonl"
    except InputError:
        jsonl = source.endswith(".jsonl")  # of which the error is then said
    if jsonl:
        yield from _documents(source, field).texts("text")
    else:
        yield from ((text,) for text in documents(source) if text.strip())


@functools.cache  # so that its counts are printed once
def _documents(source: str, field: str) -> Any:
    from memcomp.data.corpora import prepare_documents  # late: TFDS takes seconds

    corpus = prepare_documents(source, field=field)
    say(f"{source}: {_counted(corpus.counts)}")
    return corpus


def finetuning_data(
    config: Config, parts: Parts, made: Finetuning, folder: epath.Path
) -> Data:
    """Questions of PwC; the last `num_valid` that fit are not trained on."""
    cfg = train_config(config)
    tokens = question_tokens(config, parts, "train", folder / "tokens" / "train")
    sizes = dict(context=config.context.length, prompt=made.prompt, answer=made.answer)
    rows, counts = fitting_questions(made, tokens)
    if len(rows) <= config.num_valid:
        raise InputError(
            f"{len(rows)} questions fit question.prompt and question.answer, and num_valid "
            f"= {config.num_valid} are held out; raise the ones or lower the other"
        )
    batches = question_batches(
        tokens,
        **sizes,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=config.seed,
        rows=rows[: len(rows) - config.num_valid],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    held = rows[len(rows) - config.num_valid :]
    valid = {}
    if config.num_valid:
        valid["answers"] = made.examples(tokens.batch(held, **sizes))
    return Data(micro_batches(made.batches(batches), cfg.accumulation), valid, counts)


def fitting_questions(
    made: Finetuning, tokens: QuestionTokens
) -> tuple[Int64[np.ndarray, " R"], dict[str, int]]:
    """The rows that fit, and how many do not, or lose the end of their context."""
    rows = fitting(tokens, context=None, prompt=made.prompt, answer=made.answer)
    counts = {
        "num_questions": len(tokens.context),
        "num_left_out": len(tokens.context) - len(rows),
        "num_contexts_cut": int((tokens.context.lengths[rows] > made.shapes.context).sum()),
    }
    say(
        f"{counts['num_left_out']:,} of {counts['num_questions']:,} questions left out, "
        f"with a prompt of more than {made.prompt} tokens, an answer of more than "
        f"{made.answer}, or nothing in one; of the others {counts['num_contexts_cut']:,} "
        f"contexts are cut to {made.shapes.context} tokens"
    )
    return rows, counts


def question_tokens(
    config: Config, parts: Parts, split: str, folder: epath.Path
) -> QuestionTokens:
    """Tokens of the rows of PwC, made once for each workdir."""
    words = template(config, parts)

    def make() -> Iterator[tuple[Any, ...]]:
        from memcomp.data.corpora import prepare_pwc  # late: TFDS takes seconds

        corpus = prepare_pwc(
            split, manual_dir=config.manual_dir or None, filters=config.filters
        )
        say(f"PwC {split}: {_counted(corpus.counts)}")
        rows = corpus.texts("context", "prompt", "answer")
        asked = ((text, words.written(prompt), answer) for text, prompt, answer in rows)
        return tokenized(parts.lm.tokenizer, asked)

    return QuestionTokens(*cached_ragged(folder, QuestionTokens._fields, make))


def _counted(counts: Any) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
