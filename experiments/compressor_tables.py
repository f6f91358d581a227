"""Stage evaluate of experiments/icformer.py: tables of what vectors are worth."""

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
    pretraining,
    question_tokens,
)
from compressor_rows import (
    Compared,
    Make,
    by_compressor,
    by_cramming,
    cram_config,
    load_compared,
    num_vectors,
    scored,
    unaided,
    with_gains,
)
from etils import epath
from launch import Config, stop_if_told

from memcomp.compressors import layout
from memcomp.compressors.batches import Finetuning, Pretraining
from memcomp.compressors.chunks import split
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.layout import check_room
from memcomp.data.contexts import context_batches
from memcomp.data.pwc import find_pwc
from memcomp.data.tokens import pieces
from memcomp.disk import make_folder
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.report.digest_figures import attention_map
from memcomp.runs.files import (
    RECORDS,
    SUMMARY,
    Record,
    run_studies,
    summarise,
    write_whole,
)
from memcomp.sharding import fetch, on_mesh
from memcomp.studies import answers as compressed
from memcomp.studies.text_kinds import TEXT_KINDS, ordinary_ids, text_of_kind

# Of a table, on the screen.
SHOWN = ("nats_per_token", "gain_nats_per_token", "text_bleu", "exact", "rouge_1_f1")
SHOWN += ("rouge_l_f1",)


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
        stop_if_told()  # the rows before are saved
        return [
            {"text_id": text_id, "source": self.source, **record}
            for text_id, record in zip(self.text_ids, self.rows[row](), strict=True)
        ]


def evaluate(
    config: Config,
    parts: Parts,
    compared: list[Compared],
    folder: epath.Path,
) -> None:
    """Writes results.jsonl, one line a text and row of the table, and summary.json."""
    study = STUDIES[config.evaluate.study].make(config, parts, compared, folder)
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


def check_reconstructions(config: Config, parts: Parts) -> None:
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
    config: Config,
    parts: Parts,
    compared: list[Compared],
    folder: epath.Path,
) -> Study:
    """Texts of each length and kind, reproduced.

    EOS is not scored: windows end in the middle of a document, where it costs as much as
    several words, and the LM without vectors is not asked for it.
    """
    lm, asked, main = parts.lm, config.evaluate, compared[0]
    ids = ordinary_ids(lm.tokenizer, lm.config.vocab_size)
    tokens = held_out(config, parts, folder, max(asked.lengths))

    def texts(kind: str, length: int) -> list[np.ndarray]:
        return [
            text_of_kind(kind, row[:length], ids=ids, seed=config.seed, text_id=i)
            for i, row in enumerate(tokens)
        ]

    @functools.cache  # for all rows of this text
    def bare(kind: str, length: int) -> list[Record]:
        return unaided(lm, texts(kind, length), length)

    def row(
        one: Compared, make: Make, wanted: Any, kind: str, length: int, most: int
    ) -> list[Record]:
        own = texts(kind, length)
        counts = num_vectors(config, one, own)
        rows = [wanted(text, count) for text, count in zip(own, counts, strict=True)]
        return with_gains(scored(lm, make, own, rows, most), bare(kind, length))

    if isinstance(main.trained.compressor, ICFormer):
        draw_attention(config, parts, main.trained, tokens[0], folder)
    rows, reproduce = {}, functools.partial(layout.autoencoding_row, eos=None)
    cells = list(itertools.product(asked.kinds, asked.lengths))
    for one, (kind, length) in itertools.product(compared, cells):
        name = f"{one.name} {kind} {length}" if asked.beside else f"{kind} {length}"
        how = one, by_compressor(config, one), reproduce
        # One more than is wanted: an answer that does not end there is not exact.
        rows[name] = functools.partial(row, *how, kind, length, length + 1)
    for length in asked.lengths if asked.cramming else ():
        options = (main, by_cramming(config, main), layout.continuation_row)
        # No more than is wanted: memory is not made to say that its text ends.
        last = ("normal", length, length)
        rows[f"cramming {length}"] = functools.partial(row, *options, *last)
    for length in asked.lengths:
        rows[f"no vectors {length}"] = functools.partial(bare, "normal", length)
    return Study(rows, list(range(len(tokens))), config.valid, {})


def held_out(
    config: Config, parts: Parts, folder: epath.Path, length: int
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
    config: Config,
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
    with on_mesh(parts.lm.mesh):
        weights = read(params, parts.lm.params, one, lengths)
    words = pieces(parts.lm.tokenizer, tokens)
    drawn = attention_map(fetch(weights)[:, 0], words)
    if is_first():
        make_folder(folder / "figures")
        write_whole(folder / "figures" / "attention.csv", drawn.csv())
        write_whole(folder / "figures" / "attention.png", drawn.png())


def check_answers(config: Config, parts: Parts) -> None:
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
    config: Config,
    parts: Parts,
    compared: list[Compared],
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
    examples, asked, eos = made.examples(batch), made.questions(batch), made.shapes.eos
    lm, main, contexts = parts.lm, compared[0], examples.contexts
    nothing = np.zeros(0, np.int32)
    bare = [layout.full_context_row(question, nothing, eos) for question in asked]
    most = made.answer + 1  # an answer that goes on is not exact

    def read(texts: list[layout.Row]) -> list[Record]:
        spoken = compressed.from_texts(lm, texts, num_tokens=most)
        return compressed.overlap(lm, spoken)

    def row(one: Compared, make: Make, wanted: Any) -> list[Record]:
        counts = num_vectors(config, one, contexts)
        texts = [wanted(q, count, eos) for q, count in zip(asked, counts, strict=True)]
        return scored(lm, make, contexts, texts, most)

    named = {}
    for one in compared:
        options = (one, by_compressor(config, one), layout.answer_row)
        named[one.name] = functools.partial(row, *options)
    if config.evaluate.cramming:
        options = (main, by_cramming(config, main), layout.memory_answer_row)
        named["cramming"] = functools.partial(row, *options)
    named["full context"] = lambda: read(examples.teachers)
    named["no context"] = lambda: read(bare)
    return Study(named, rows.tolist(), "PwC test", counts)


class Made(NamedTuple):
    """A study by name: what must hold before the workdir is claimed, and what is done."""

    check: Callable[[Config, Parts], None]
    make: Callable[[Config, Parts, list[Compared], epath.Path], Study]


STUDIES = {
    "reconstruction": Made(check_reconstructions, reconstructions),
    "answers": Made(check_answers, answers),
}


def evaluated(config: Config, parts: Parts) -> list[Compared]:
    """The compressors that are evaluated, where their study can be made.

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
    check = STUDIES[config.evaluate.study].check
    check(config, parts)
    if config.evaluate.cramming:
        cram_config(config, parts)
    compared = load_compared(config, parts)
    for one in compared[1:]:  # which may make more vectors
        check(config, one.parts)
    return compared
