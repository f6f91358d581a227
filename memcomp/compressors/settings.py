"""Settings of a compressor's run: what it reads, how it is trained and evaluated."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from memcomp.compressors.registry import COMPRESSORS
from memcomp.compressors.training import TrainConfig
from memcomp.errors import InputError
from memcomp.lm.decode import check_sampling
from memcomp.ranges import check_count, check_seed


@dataclasses.dataclass(frozen=True)
class Sources:
    """Sources of texts and questions.

    Attributes:
      texts: source of the texts to train on, or to compress in stage generate.
      valid: source of the held-out texts; "" for none.
      field: field of a .jsonl line that holds the text.
      special_tokens: whether documents get the tokenizer's BOS.
      manual_dir: folder of PwC_train.jsonl and PwC_test.jsonl; "" for none.
      filters: see `memcomp.data.pwc.read_pwc`; None for the default ones.
      num_valid: number of held-out windows or questions to evaluate on during training.
    """

    texts: str
    valid: str
    field: str
    special_tokens: bool
    manual_dir: str
    filters: tuple[str, ...] | None
    num_valid: int

    def __post_init__(self):
        check_count("num_valid", self.num_valid, 0)


@dataclasses.dataclass(frozen=True)
class ContextSettings:
    """Which windows of documents are contexts, and how they are split into chunks.

    Attributes:
      length: largest number of tokens of a context.
      min_length: smallest number of tokens of a context; None to make all contexts as long
        as they can be.
      max_chunk: see `memcomp.compressors.chunks.split`; None for contexts as a whole.
      by_tokens: see `memcomp.data.contexts.context_batches`.
    """

    length: int
    min_length: int | None
    max_chunk: int | None
    by_tokens: bool


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """Settings of the training objective.

    See `memcomp.compressors.objectives.Task` for `average`, and
    `memcomp.compressors.batches.Pretraining` for the others.

    Attributes:
      average: how losses are averaged.
      continuation: largest number of tokens of a continuation.
      continuation_ratio: share of the sequences that continue the text.
      min_continuation: smallest number of tokens of a continuation.
      num_given: number of leading tokens of a continuation that are not scored.
    """

    average: str
    continuation: int
    continuation_ratio: float
    min_continuation: int
    num_given: int


@dataclasses.dataclass(frozen=True)
class QuestionSettings:
    """How questions are asked.

    Attributes:
      template: see `memcomp.compressors.templates.make_template`.
      prompt: largest number of tokens of a prompt.
      answer: largest number of tokens of an answer.
    """

    template: str
    prompt: int
    answer: int


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How answers are decoded.

    Attributes:
      num_texts: number of texts to decode at each evaluation of training, or in stage
        generate.
      num_tokens: largest number of tokens of an answer in stage generate.
      ask: "reproduce", "continue", or a question.
      temperature: temperature of sampling; 0 for greedy decoding.
      top_p: total probability of the likeliest tokens, from which tokens are drawn.
    """

    num_texts: int
    num_tokens: int
    ask: str
    temperature: float
    top_p: float

    def __post_init__(self):
        check_sampling(self.temperature, self.top_p)
        if self.num_texts < 0:
            raise InputError(f"decode.num_texts is {self.num_texts}; give 0 or more")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What stage evaluate measures.

    Attributes:
      study: a key of `memcomp.studies.compressor_tables.STUDIES`.
      num_texts: number of texts for each line of the table; None for all questions of the
        test set.
      lengths: lengths in tokens of the texts to reproduce.
      kinds: kinds of these texts, keys of `memcomp.studies.text_kinds.TEXT_KINDS`.
      beside: further compressors for this LM.
      baselines: baselines without weights in the table, keys of
        `memcomp.studies.baselines.BASELINES`.
      cramming: whether the table compares with memory that is crammed for each context.
      cramming_starts: whether it also has memory that is crammed beginning with the vectors
        of each compressor; only study reconstruction.
      cram: arguments of `memcomp.CramConfig`.
    """

    study: str
    num_texts: int | None
    lengths: tuple[int, ...]
    kinds: tuple[str, ...]
    beside: tuple[Any, ...]
    baselines: tuple[str, ...]
    cramming: bool
    cramming_starts: bool
    cram: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run except those of the LM and its mesh.

    Attributes:
      stage: "pretrain", "finetune", "generate", "evaluate" or "both".
      seed: seed of all random draws.
      start: the compressor to begin with; "" for none, `FRESH` for random weights.
      compressor: a key of `memcomp.compressors.registry.COMPRESSORS`.
      compressor_entries: fields of each compressor's config, by such a key.
    """

    stage: str
    seed: int
    start: str
    compressor: str
    compressor_entries: Mapping[str, dict[str, Any]]
    sources: Sources
    context: ContextSettings
    objective: ObjectiveSettings
    question: QuestionSettings
    train: TrainConfig
    decode: DecodingSettings
    evaluate: EvaluationSettings

    def __post_init__(self):
        check_seed("seed", self.seed)


def settings_of(entries: Mapping[str, Any]) -> Settings:
    """Makes the settings from the fields of a config such as configs/icformer/base.py.

    Raises:
      InputError: a number is out of its range.
      TypeError: a section has an unknown entry.
    """
    train = dict(entries["train"])
    options = tuple(sorted(train.pop("schedule_options").items()))
    sources = {field.name: entries[field.name] for field in dataclasses.fields(Sources)}
    return Settings(
        **{name: entries[name] for name in ("stage", "seed", "start", "compressor")},
        compressor_entries={name: entries[name] for name in COMPRESSORS},
        sources=Sources(**sources),
        context=ContextSettings(**entries["context"]),
        objective=ObjectiveSettings(**entries["objective"]),
        question=QuestionSettings(**entries["question"]),
        train=TrainConfig(**train, schedule_options=options, dtype=entries["dtype"]),
        decode=DecodingSettings(**entries["decode"]),
        evaluate=EvaluationSettings(**entries["evaluate"]),
    )
