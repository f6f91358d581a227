"""Makes the parts of a compressor's run, and checks that it fits the LM."""

import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from memcomp.compressors.batches import Finetuning, Pretraining, Shapes
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.layout import check_room
from memcomp.compressors.objectives import Task
from memcomp.compressors.registry import (
    COMPRESSOR,
    COMPRESSORS,
    load_alike,
    make_compressor,
    trained_sha256,
)
from memcomp.compressors.settings import Settings
from memcomp.compressors.templates import Template, make_template
from memcomp.data.files import content_sha256
from memcomp.data.pwc import find_pwc
from memcomp.data.training_texts import document_texts, document_texts_sha256
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.ranges import check_choice

FRESH = "fresh"  # value of `Settings.start` for random weights


class Setup(NamedTuple):
    """The parts of a run that all stages need.

    Attributes:
      settings: settings of the run.
      lm: the frozen language model.
      task: the compressor for this LM, and its objective.
    """

    settings: Settings
    lm: LanguageModel
    task: Task


def make_task(settings: Settings, module: CausalLM) -> Task:
    """Makes the compressor and its objective, for the LM with this Flax module.

    Raises:
      InputError: the settings of the compressor or of the objective are not valid.
    """
    kind, objective = settings.compressor, settings.objective
    check_choice("compressor", kind, COMPRESSORS)
    compressor = make_compressor(kind, module, settings.compressor_entries[kind])
    return Task(module, compressor, objective.average)


def load_start(setup: Setup) -> TrainedCompressor:
    """Loads the compressor to start with, which must be of the kind in the settings.

    Raises:
      InputError: there is no compressor, or it is of another kind or of other sizes.
    """
    start = setup.settings.start
    if not start:
        raise InputError(
            f"stage {setup.settings.stage} needs a trained compressor; give "
            f"--config.start=FOLDER of a run, or a {COMPRESSOR}"
        )
    return load_alike(start, setup.lm, setup.task.compressor)


def shapes(setup: Setup) -> Shapes:
    """Returns the sizes of contexts and sequences."""
    context = setup.settings.context
    return Shapes(
        num_digests=setup.task.compressor.num_digests,
        context=context.length,
        max_chunk=context.max_chunk,
        eos=getattr(setup.lm.tokenizer, "eos_token_id", None),
    )


def pretraining(setup: Setup) -> Pretraining:
    """Makes the objectives of stage pretrain, and checks that they fit the LM.

    Raises:
      InputError: they do not fit the LM, or do not fit each other.
    """
    names = ("continuation", "continuation_ratio", "min_continuation", "num_given")
    options = {name: getattr(setup.settings.objective, name) for name in names}
    made = Pretraining(shapes(setup), **options)
    _check_positions(made, setup)
    return made


def finetuning(setup: Setup) -> Finetuning:
    """Makes the objective of stage finetune, and checks that it fits the LM.

    Raises:
      InputError: it does not fit the LM, or the LM has no tokenizer.
    """
    ask = setup.settings.question
    made = Finetuning(shapes(setup), template(setup), ask.prompt, ask.answer)
    _check_positions(made, setup)
    return made


def template(setup: Setup) -> Template:
    """Makes the template of the words around contexts and prompts.

    Raises:
      InputError: the LM has no tokenizer, or there is no such template.
    """
    if setup.lm.tokenizer is None:
        raise InputError(f"{setup.lm.name} has no tokenizer, which questions need")
    return make_template(setup.settings.question.template, setup.lm.tokenizer)


def _check_positions(made: Pretraining | Finetuning, setup: Setup) -> None:
    """Raises `InputError` if sequences do not fit the LM, or chunks the compressor."""
    check_room(made.length, setup.lm.name, setup.lm.config.max_positions)
    shapes = made.shapes
    check_chunks(min(shapes.max_chunk or shapes.context, shapes.context), setup)


def check_chunks(width: int, setup: Setup) -> None:
    """Raises `InputError` if the compressor cannot take chunks of `width` tokens."""
    compressor = setup.task.compressor
    params = nn.unbox(jax.eval_shape(compressor.init, jax.random.key(0)))
    chunk = jax.ShapeDtypeStruct((1, width), np.int32)
    length = jax.ShapeDtypeStruct((1,), np.int32)
    jax.eval_shape(compressor.digest, params, setup.lm.params, chunk, length)


def pretraining_of_texts(setup: Setup) -> Pretraining:
    """Calls `pretraining` after checks of the texts and of the compressor to start with.

    Raises:
      InputError: there is no text, or the run cannot start with the compressor.
    """
    settings = setup.settings
    sources, least, length = (
        settings.sources,
        settings.context.min_length,
        settings.context.length,
    )
    check_text("texts", sources.texts, sources.field)
    if sources.valid:
        check_text("valid", sources.valid, sources.field)
    if least is not None and not 1 <= least <= length:
        raise InputError(
            f"context.min_length is {least}; give 1 to context.length = {length}, or None"
        )
    if settings.start not in ("", FRESH):
        load_start(setup)
    return pretraining(setup)


def check_text(name: str, source: str, field: str) -> None:
    """Raises `InputError` if `source`, the config's field `name`, has no text."""
    if not source or next(document_texts(source, field), None) is None:
        raise InputError(
            f"{name} is {source!r}, where there is no text; give --config.{name}=FOLDER"
        )


def finetuning_of_questions(setup: Setup) -> Finetuning:
    """Calls `finetuning` after checks of the questions and of the start.

    Raises:
      InputError: there are no questions, or the settings give no valid start.
    """
    find_pwc("train", setup.settings.sources.manual_dir or None)
    start = setup.settings.start
    if not start:
        raise InputError(
            "stage finetune begins with a trained compressor; give --config.start=FOLDER "
            f"of a run, or --config.start={FRESH} for random weights"
        )
    if start != FRESH:
        load_start(setup)
    return finetuning(setup)


# Inputs whose SHA-256 is recorded, by stage or study.
_CONTENT = {
    "pretrain": ("texts", "valid", "start"),
    "finetune": ("questions", "start"),
    "generate": ("texts", "start"),
    "reconstruction": ("valid", "start", "beside"),
    "answers": ("test questions", "start", "beside"),
}


def content(settings: Settings) -> dict[str, dict[str, str]]:
    """Returns SHA-256 of a run's texts, questions and compressors, for its config.json."""
    stage, sources = settings.stage, settings.sources

    def sha256(name: str) -> str | None:
        if name in ("texts", "valid"):
            return document_texts_sha256(getattr(sources, name), sources.field)
        if name in ("questions", "test questions"):
            split = "train" if name == "questions" else "test"
            return content_sha256([find_pwc(split, sources.manual_dir or None)], {})
        names = (settings.start,) if name == "start" else settings.evaluate.beside
        return trained_sha256([one for one in names if one not in ("", FRESH)])

    study = settings.evaluate.study
    parts = {"evaluate": (study,), "both": ("pretrain", study)}.get(stage, (stage,))
    used = itertools.chain.from_iterable(_CONTENT[part] for part in parts)
    found = {name: sha256(name) for name in dict.fromkeys(used)}
    return {name: {"sha256": digest} for name, digest in found.items() if digest}
