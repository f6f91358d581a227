"""Stage evaluate of experiments/icformer.py: tables of what vectors are worth."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from compressor_parts import (
    Parts,
    check_text,
    document_tokens,
    finetuning,
    fitting_questions,
    load_start,
    pretraining,
    question_tokens,
)
from etils import epath
from ml_collections import config_dict

from memcomp.compressor import layout
from memcomp.compressor.batches import Examples, Finetuning, Pretraining
from memcomp.compressor.chunks import split
from memcomp.compressor.compress import TrainedCompressor
from memcomp.compressor.layout import check_room
from memcomp.data.contexts import Contexts, context_batches
from memcomp.data.pwc import find_pwc
from memcomp.data.ragged import Ragged
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.evaluation import compressed
from memcomp.evaluation.digest_figures import attention_map
from memcomp.evaluation.scores import baselines
from memcomp.evaluation.text_kinds import TEXT_KINDS, ordinary_ids, text_of_kind
from memcomp.icformer.model import ICFormer
from memcomp.lm import LanguageModel
from memcomp.results import (
    RECORDS,
    SUMMARY,
    Record,
    run_studies,
    summarise,
    write_whole,
)
from memcomp.sharding import fetch

# Of a table, on the screen.
SHOWN = ("nats_per_token", "gain_nats_per_token", "text_bleu", "exact", "rouge_1_f1")
SHOWN += ("rouge_l_f1",)
GROUP = 64  # texts whose vectors are in memory at once


class Study(NamedTuple):
    """A table, row by row.

    Attributes:
      rows: by name, what makes a record of each text.
      text_ids: of the texts, the same for all rows.
      source: where they are from.
      counts: what was left out of it, for summary.json.
    """

    rows: dict[str, Callable[[], list[Record]]]
    text_ids: list[int]
    source: str
    counts: dict[str, int]

    def numbered(self, row: str) -> list[Record]:
        """The records of a row, which say of what text they are."""
        return [
            {"text_id": text_id, "source": self.source, **record}
            for text_id, record in zip(self.text_ids, self.rows[row](), strict=True)
        ]


def evaluate(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> None:
    """Writes results.jsonl, one line a text and row of the table, and summary.json."""
    study = STUDIES[config.evaluate.study].make(config, parts, trained, folder)
    rows = {name: functools.partial(study.numbered, name) for name in study.rows}
    records = run_studies(folder / RECORDS, rows)
    table: dict[str, Any] = {}
    for name in rows:
        own = [record for record in records if record["kind"] == name]
        table[name] = summarise(own)
        if "output" in own[0]:
            table[name]["corpus_bleu"] = compressed.bleu(parts.lm, own)
        if is_first():
            means = [f"{k} {table[name][k]['mean']:.3f}" for k in SHOWN if k in table[name]]
            print(f"{name}: n {len(own)}, {', '.join(means)}")
    if is_first():
        write_whole(folder / SUMMARY, json.dumps(table | study.counts, indent=2) + "\n")


def check_reconstructions(config: config_dict.ConfigDict, parts: Parts) -> None:
    """Raises `InputError` where `reconstructions` cannot be made."""
    asked = config.evaluate
    if unknown := [kind for kind in asked.kinds if kind not in TEXT_KINDS]:
        raise InputError(f"evaluate.kinds has {unknown}; known are {', '.join(TEXT_KINDS)}")
    most = config.context.length
    if not asked.lengths or not all(1 <= length <= most for length in asked.lengths):
        raise InputError(
            f"evaluate.lengths is {asked.lengths}; give lengths from 1 to context.length = "
            f"{most}"
        )
    if asked.num_texts is None:
        raise InputError(
            "evaluate.num_texts None is all questions of a test set; windows of documents "
            "have no end, so give a number"
        )
    check_text("valid", config.valid, config.field)
    check_decoding(pretraining(config, parts), parts)


def reconstructions(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> Study:
    """Texts of each length and kind, reproduced.

    EOS is not scored: windows end in the middle of a document, where it costs as much as
    several words, and the LM without vectors is not asked for it.
    """
    lm, made = parts.lm, pretraining(config, parts)
    made = dataclasses.replace(made, shapes=dataclasses.replace(made.shapes, eos=None))
    ids = ordinary_ids(lm.tokenizer, lm.config.vocab_size)
    tokens = held_out(config, parts, folder, max(config.evaluate.lengths))
    numbers = np.arange(len(tokens))
    nothing = Ragged.of([[]] * len(tokens)).padded(numbers, 0)

    def make(kind: str, length: int) -> list[Record]:
        texts = [
            text_of_kind(kind, row[:length], ids=ids, seed=config.seed, text_id=i)
            for i, row in enumerate(tokens)
        ]
        held = Ragged.of(row.tolist() for row in texts).padded(numbers, length)
        examples = made.examples(Contexts(held, nothing), np.zeros(len(tokens), bool))
        records = scored(config, parts, trained, examples, length)
        return with_gains(records, unaided(lm, texts, length))

    if isinstance(trained.compressor, ICFormer):
        draw_attention(config, parts, trained, tokens[0], folder)
    lengths = config.evaluate.lengths
    rows = {
        f"{kind} {length}": functools.partial(make, kind, length)
        for kind, length in itertools.product(config.evaluate.kinds, lengths)
    }
    for length in lengths:
        begun = [row[:length] for row in tokens]
        rows[f"no vectors {length}"] = functools.partial(unaided, lm, begun, length)
    return Study(rows, numbers.tolist(), config.valid, {})


def unaided(lm: LanguageModel, texts: list[np.ndarray], length: int) -> list[Record]:
    """What the LM gives texts of `length` tokens without vectors.

    `first_nats` is what it gives their first token after the start of a document.
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
    """The records, each with what its vectors are worth beside the LM without them.

    `gain_nats_per_token` is of all tokens, `gain_nats_per_later_token` of those after the
    first, where there are any.
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


def held_out(
    config: config_dict.ConfigDict, parts: Parts, folder: epath.Path, length: int
) -> list[np.ndarray]:
    """Windows of the documents that are not trained on, all of `length` tokens."""
    documents = document_tokens(config, parts, config.valid, folder / "tokens" / "valid")
    (windows,) = context_batches(
        documents,
        length=length,
        batch_size=config.evaluate.num_texts,
        num_batches=1,
        seed=config.seed,
        by_tokens=True,
    )
    held = windows.context
    tokens = [row for row, n in zip(held.tokens, held.lengths, strict=True) if n == length]
    if not tokens:
        raise InputError(
            f"no text of {config.valid} has {length} tokens; lower evaluate.lengths"
        )
    return tokens


def draw_attention(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    tokens: np.ndarray,
    folder: epath.Path,
) -> None:
    """Writes figures/attention.png and .csv: what each digest reads of a text's chunk."""
    tokens = split(tokens, config.context.max_chunk)[0]
    params = trained.params["compressor"]
    one, lengths = jnp.asarray(tokens[None], jnp.int32), jnp.array([len(tokens)])
    read = jax.jit(trained.compressor.attention)
    weights = read(params, parts.lm.params, one, lengths)
    words = [parts.lm.tokenizer.decode([int(token)]) for token in tokens]
    drawn = attention_map(fetch(weights)[:, 0], words)
    if is_first():
        (folder / "figures").mkdir(exist_ok=True)
        write_whole(folder / "figures" / "attention.csv", drawn.csv())
        write_whole(folder / "figures" / "attention.png", drawn.png())


def check_answers(config: config_dict.ConfigDict, parts: Parts) -> None:
    """Raises `InputError` where `answers` cannot be made."""
    find_pwc("test", config.manual_dir or None)
    made = finetuning(config, parts)
    check_decoding(made, parts)
    needed = made.teacher_length + 1 - made.shapes.ending
    check_room(needed, parts.lm.name, parts.lm.config.max_positions)


def check_decoding(made: Pretraining | Finetuning, parts: Parts) -> None:
    """Raises `InputError` where an answer of one token too many has no room."""
    needed = made.length + 1 - made.shapes.ending
    check_room(needed, parts.lm.name, parts.lm.config.max_positions)


def answers(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> Study:
    """Questions of PwC's test set, from vectors, from the text, and from neither."""
    made = finetuning(config, parts)
    tokens = question_tokens(config, parts, "test", folder / "tokens" / "test")
    sizes = dict(context=config.context.length, prompt=made.prompt, answer=made.answer)
    rows, counts = fitting_questions(made, tokens)
    rows = rows[: config.evaluate.num_texts]
    if not len(rows):
        raise InputError(
            "no question of the test set fits; raise question.prompt and question.answer"
        )
    batch = tokens.batch(rows, **sizes)
    examples, lm = made.examples(batch), parts.lm
    nothing = np.zeros(0, np.int32)
    bare = [
        layout.full_context_row(question, nothing, made.shapes.eos)
        for question in made.questions(batch)
    ]

    def read(texts: list[layout.Row]) -> list[Record]:
        spoken = compressed.from_texts(lm, texts, num_tokens=made.answer + 1)
        return compressed.overlap(lm, spoken)

    vectors = functools.partial(scored, config, parts, trained, examples, made.answer)
    named = {
        config.compressor: vectors,
        "full context": lambda: read(examples.teachers),
        "no context": lambda: read(bare),
    }
    return Study(named, rows.tolist(), "PwC test", counts)


def scored(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    examples: Examples,
    num_tokens: int,
) -> list[Record]:
    """Of each text: nats and accuracy, teacher-forced; and its free-running answer."""
    lm, task, records = parts.lm, parts.task, []
    for first in range(0, len(examples.rows), GROUP):
        part = examples.part(slice(first, first + GROUP))
        spoken = compressed.from_soft_prompts(
            lm,
            trained,
            part,
            max_chunk=config.context.max_chunk,
            # One more than is wanted: an answer that does not end there is not exact.
            num_tokens=num_tokens + 1,
        )
        forced = compressed.teacher_forced(trained.params, lm, part.batch, task)
        answered = compressed.overlap(lm, spoken)
        records += [a | b for a, b in zip(forced, answered, strict=True)]
    return records


class Made(NamedTuple):
    """A study by name: what must hold before the workdir is claimed, and what is done."""

    check: Callable[[config_dict.ConfigDict, Parts], None]
    make: Callable[[config_dict.ConfigDict, Parts, TrainedCompressor, epath.Path], Study]


STUDIES = {
    "reconstruction": Made(check_reconstructions, reconstructions),
    "answers": Made(check_answers, answers),
}


def evaluated(config: config_dict.ConfigDict, parts: Parts) -> TrainedCompressor:
    """The compressor that is evaluated, where its study can be made.

    Raises:
      InputError: it cannot.
    """
    if config.evaluate.study not in STUDIES:
        raise InputError(
            f"evaluate.study {config.evaluate.study!r} is not one of {', '.join(STUDIES)}"
        )
    most = config.evaluate.num_texts
    if most is not None and most < 1:
        raise InputError(f"evaluate.num_texts is {most}; give 1 or more, or None for all")
    STUDIES[config.evaluate.study].check(config, parts)
    return load_start(config, parts)
