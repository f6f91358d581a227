"""The settings of a compressor's run: what it reads, how it is trained and evaluated."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from memcomp.compressors.training import TrainConfig
from memcomp.errors import InputError
from memcomp.lm.decode import check_sampling
from memcomp.ranges import check_count, check_seed


@dataclasses.dataclass(frozen=True)
class Sources:
    """Texts and questions.

    Attributes:
      texts: trained on, or compressed by stage generate.
      valid: held out; "" for none.
      field: of a .jsonl row, that has the text.
      special_tokens: whether documents get the tokenizer's BOS.
      manual_dir: of PwC_train.jsonl and PwC_test.jsonl; "" for none.
      filters: see `memcomp.data.pwc.read_pwc`; None for its own.
      num_valid: rows held out from training.
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
    """Which windows of documents are contexts, and how they are cut into chunks.

    Attributes:
      length: most tokens of a context.
      min_length: fewest tokens of a context; None: all are as long as they can be.
      max_chunk: see `memcomp.compressors.chunks.split`; None for contexts as a whole.
      by_tokens: whether long documents give as many windows as they have.
    """

    length: int
    min_length: int | None
    max_chunk: int | None
    by_tokens: bool


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """What is minimised.

    Attributes:
      average: see `memcomp.compressors.objectives.Task`.
      continuation: see `memcomp.compressors.batches.Pretraining`, as the next three.
      continuation_ratio: part of the rows that go on with the text.
      min_continuation: fewest tokens of such a row.
      num_given: leading tokens of it that are not scored.
      distillation: see `memcomp.compressors.objectives.Task`.
    """

    average: str
    continuation: int
    continuation_ratio: float
    min_continuation: int
    num_given: int
    distillation: float


@dataclasses.dataclass(frozen=True)
class QuestionSettings:
    """How questions are asked.

    Attributes:
      template: see `memcomp.compressors.templates.make_template`.
      prompt: most tokens of a prompt.
      answer: most tokens of an answer.
    """

    template: str
    prompt: int
    answer: int


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How answers are decoded.

    Attributes:
      num_texts: free-running at each evaluation of training, or in stage generate.
      num_tokens: most tokens of an answer in stage generate.
      ask: "reproduce", "continue", or a question.
      temperature: 0 for greedy decoding.
      top_p: part of the probability that is drawn from.
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
      num_texts: of each row of the table; None for all questions of the test set.
      lengths: tokens of the texts that are reproduced.
      kinds: of these texts, keys of `memcomp.studies.text_kinds.TEXT_KINDS`.
      beside: further compressors for this LM.
      cramming: whether there are rows of memory that is crammed for each context.
      cram: arguments of `memcomp.CramConfig`.
    """

    study: str
    num_texts: int | None
    lengths: tuple[int, ...]
    kinds: tuple[str, ...]
    beside: tuple[Any, ...]
    cramming: bool
    cram: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run but those of the LM and its mesh.

    Attributes:
      stage: "pretrain", "finetune", "generate" or "evaluate".
      seed: of all that is drawn.
      start: the compressor to begin with; "" for none, `FRESH` for random weights.
      compressor: a key of `memcomp.compressors.registry.COMPRESSORS`.
      compressor_entries: by such a key, the entries of its config.
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
    """The settings in the nested entries of a config such as configs/icformer/base.py.

    Raises:
      InputError: a number without sense.
      TypeError: a section with an entry that is not known.
    """
    train = dict(entries["train"])
    options = tuple(sorted(train.pop("schedule_options").items()))
    sources = {field.name: entries[field.name] for field in dataclasses.fields(Sources)}
    return Settings(
        **{name: entries[name] for name in ("stage", "seed", "start", "compressor")},
        compressor_entries={name: entries[name] for name in ("icformer", "icae")},
        sources=Sources(**sources),
        context=ContextSettings(**entries["context"]),
        objective=ObjectiveSettings(**entries["objective"]),
        question=QuestionSettings(**entries["question"]),
        train=TrainConfig(**train, schedule_options=options, dtype=entries["dtype"]),
        decode=DecodingSettings(**entries["decode"]),
        evaluate=EvaluationSettings(**entries["evaluate"]),
    )
