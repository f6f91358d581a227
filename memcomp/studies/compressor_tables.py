"""Tables that compare a compressor's vectors with cramming and with the text itself."""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memcomp.compressors import layout
from memcomp.compressors.batches import Finetuning, Pretraining
from memcomp.compressors.chunks import split
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.layout import check_room
from memcomp.compressors.setup import Setup, check_text, finetuning, pretraining
from memcomp.compressors.training_data import (
    document_tokens,
    fitting_questions,
    question_tokens,
)
from memcomp.data.contexts import context_batches
from memcomp.data.pwc import find_pwc
from memcomp.data.tokens import pieces
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_choice
from memcomp.runs.files import RECORDS, Record, run_studies, summarise
from memcomp.sharding import fetch, on_mesh
from memcomp.studies import answers as compressed
from memcomp.studies.baselines import BASELINES, check_baselines
from memcomp.studies.compared import (
    Compared,
    Make,
    after_memory,
    by_compressor,
    by_cramming,
    cram_config,
    load_beside,
    load_compared,
    num_crammed,
    num_vectors,
    scored,
    unaided,
    with_gains,
)
from memcomp.studies.text_kinds import TEXT_KINDS, ordinary_ids, text_of_kind

Counts = Callable[[Sequence[np.ndarray]], list[int]]  # numbers of vectors of contexts


class Attention(NamedTuple):
    """Attention of each digest to the tokens of a text's first chunk.

    Attributes:
      weights: attention probabilities of one text, as from `ICFormer.attention`.
      words: tokens of the chunk, as text.
    """

    weights: np.ndarray
    words: list[str]


class Study(NamedTuple):
    """A table, which is made line by line.

    Attributes:
      rows: functions by name of the line; each makes a record of every text.
      text_ids: ids of the texts, which are the same for all lines.
      source: source of the texts.
      counts: numbers of questions that were left out or cut, for summary.json.
      attention: attention on the first text; None unless the first compressor is an
        IC-Former.
    """

    rows: dict[str, Callable[[], list[Record]]]
    text_ids: list[int]
    source: str
    counts: dict[str, int]
    attention: Attention | None = None

    def numbered(self, row: str, report: Callable[[], None]) -> list[Record]:
        """Makes the records of a line, with the id and the source of each text."""
        report()  # a run can stop here, as the lines before are saved
        return [
            {"text_id": text_id, "source": self.source, **record}
            for text_id, record in zip(self.text_ids, self.rows[row](), strict=True)
        ]


def run_table(
    study: Study,
    lm: LanguageModel,
    folder: epath.Path,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes results.jsonl, with one record per text and line of the table.

    Args:
      study: the table.
      lm: the language model.
      folder: the workdir; lines of the table that it has already are not made again.
      report: called before each line of the table; an exception that it raises ends the
        run, which can be resumed.

    Returns:
      For each line, n, mean and standard error of each figure, and `corpus_bleu`.
    """
    rows = {name: functools.partial(study.numbered, name, report) for name in study.rows}
    records = run_studies(folder / RECORDS, rows)
    table: dict[str, Any] = {}
    for name in rows:
        own = [record for record in records if record["kind"] == name]
        table[name] = summarise(own)
        if "output" in own[0]:
            table[name]["corpus_bleu"] = compressed.bleu(lm, own)
    return table


def check_reconstructions(setup: Setup) -> None:
    """Raises `InputError` if `reconstructions` cannot be made."""
    settings = setup.settings
    asked, most = settings.evaluate, settings.context.length
    if unknown := [kind for kind in asked.kinds if kind not in TEXT_KINDS]:
        raise InputError(f"evaluate.kinds has {unknown}; known are {', '.join(TEXT_KINDS)}")
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
    check_text("valid", settings.sources.valid, settings.sources.field)
    _check_decoding(pretraining(setup), setup)


def reconstructions(
    compared: Sequence[Compared],
    folder: epath.Path,
    report: Callable[[], None] = lambda: None,
) -> Study:
    """Makes the table of texts of each length and kind that the LM is to reproduce.

    EOS is not scored: windows end in the middle of a document, where EOS costs as much as
    several words, and the LM without vectors does not have to predict it.

    Args:
      compared: the compressors; the first one's settings give the texts.
      folder: the workdir, in which the tokens are cached.
      report: called before each group of texts, and after each chunk of cramming.
    """
    main = compared[0]
    settings, lm = main.setup.settings, main.setup.lm
    asked = settings.evaluate
    ids = ordinary_ids(lm.tokenizer, lm.config.vocab_size)
    tokens = held_out(main.setup, folder, max(asked.lengths))

    def texts(kind: str, length: int) -> list[np.ndarray]:
        return [
            text_of_kind(kind, row[:length], ids=ids, seed=settings.seed, text_id=i)
            for i, row in enumerate(tokens)
        ]

    @functools.cache  # used by all lines with these texts
    def bare(kind: str, length: int) -> list[Record]:
        return unaided(lm, texts(kind, length), length)

    def row(
        vectors: str,
        how: tuple[Counts, Make, Any],
        kind: str,
        length: int,
        most: int,
    ) -> list[Record]:
        (counts, make, wanted), own = how, texts(kind, length)
        rows = [wanted(text, n) for text, n in zip(own, counts(own), strict=True)]
        made = scored(lm, make, own, rows, most, report)
        same = {"vectors": vectors, "text_kind": kind}
        return [same | record for record in with_gains(made, bare(kind, length))]

    rows, reproduce = {}, functools.partial(layout.autoencoding_row, eos=None)
    cells = list(itertools.product(asked.kinds, asked.lengths))
    for one, (kind, length) in itertools.product(compared, cells):
        name = f"{one.name} {kind} {length}" if asked.beside else f"{kind} {length}"
        how = functools.partial(num_vectors, one), by_compressor(one), reproduce
        # One token more than expected, because an answer that does not end is not exact.
        rows[name] = functools.partial(row, one.name, how, kind, length, length + 1)
    for name, how in untrained(main, layout.continuation_row, report).items():
        # No token more than expected, because nothing has stored that its text ends.
        for length in asked.lengths:
            last = ("normal", length, length)
            rows[f"{name} {length}"] = functools.partial(row, name, how, *last)
    begun = compared if asked.cramming_starts else ()
    for one, length in itertools.product(begun, asked.lengths):
        crammed = by_cramming(one, report, from_digests=True)
        how = functools.partial(num_vectors, one), crammed, layout.continuation_row
        name, last = f"cramming from {one.name}", ("normal", length, length)
        rows[f"{name} {length}"] = functools.partial(row, name, how, *last)
    for length in asked.lengths:
        rows[f"no vectors {length}"] = functools.partial(bare, "normal", length)
    read = attention_of(main, tokens[0])
    return Study(rows, list(range(len(tokens))), settings.sources.valid, {}, read)


def untrained(
    main: Compared, wanted: Any, report: Callable[[], None], remembered: Any = None
) -> dict[str, tuple[Counts, Make, Any]]:
    """Lines of vectors that no compressor was trained to make: baselines and cramming.

    Args:
      main: the compressor that says how many vectors are made.
      wanted: function that makes the sequence that the LM reads, from a text or question
        and its number of vectors.
      report: called after each chunk of cramming.
      remembered: the same function for crammed memory; None for `wanted`.

    Returns:
      Three functions by the name of the line: for the numbers of vectors of contexts, for
      the vectors, and for the sequence that the LM reads.
    """
    asked, lines = main.setup.settings.evaluate, {}
    for name in asked.baselines:
        counts, make = BASELINES[name]
        lines[name] = functools.partial(counts, main), make(main), wanted
    if asked.cramming:
        counts, make = functools.partial(num_crammed, main), by_cramming(main, report)
        lines["cramming"] = counts, make, after_memory(main, remembered or wanted)
    return lines


def held_out(setup: Setup, folder: epath.Path, length: int) -> list[np.ndarray]:
    """Returns `evaluate.num_texts` windows of held-out documents, all of `length` tokens.

    Raises:
      InputError: no document has so many tokens.
    """
    settings = setup.settings
    valid, wanted = settings.sources.valid, settings.evaluate.num_texts or 1
    documents = document_tokens(setup, valid, folder / "tokens" / "valid")
    if documents.lengths.max(initial=0) < length:
        raise InputError(f"no text of {valid} has {length} tokens; lower evaluate.lengths")
    batches = context_batches(
        documents,
        length=length,
        batch_size=wanted,
        num_batches=sys.maxsize,
        seed=settings.seed,
        by_tokens=True,
    )
    one_by_one = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    drawn = (
        row
        for batch in batches.to_iter_dataset(one_by_one)
        for row, n in zip(*batch.context, strict=True)
        if n == length  # documents that are too short give shorter windows
    )
    return list(itertools.islice(drawn, wanted))


def attention_of(one: Compared, tokens: np.ndarray) -> Attention | None:
    """Attention of an IC-Former to a text's first chunk; None for other compressors."""
    compressor, lm = one.trained.compressor, one.setup.lm
    if not isinstance(compressor, ICFormer):
        return None
    tokens = split(tokens, one.setup.settings.context.max_chunk)[0]
    texts, lengths = jnp.asarray(tokens[None], jnp.int32), jnp.array([len(tokens)])
    with on_mesh(lm.mesh):
        weights = jax.jit(compressor.attention)(
            one.trained.params["compressor"], lm.params, texts, lengths
        )
    return Attention(fetch(weights)[:, 0], pieces(lm.tokenizer, tokens))


def check_answers(setup: Setup) -> None:
    """Raises `InputError` if `answers` cannot be made."""
    find_pwc("test", setup.settings.sources.manual_dir or None)
    made = finetuning(setup)
    _check_decoding(made, setup)
    needed = made.full_length + 1 - made.shapes.ending
    check_room(needed, setup.lm.name, setup.lm.config.max_positions)


def _check_decoding(made: Pretraining | Finetuning, setup: Setup) -> None:
    """Raises `InputError` if an answer with one token too many does not fit the LM."""
    needed = made.length + 1 - made.shapes.ending
    check_room(needed, setup.lm.name, setup.lm.config.max_positions)


def answers(
    compared: Sequence[Compared],
    folder: epath.Path,
    report: Callable[[], None] = lambda: None,
) -> Study:
    """Makes the table of PwC's test questions: from vectors, the text, or neither.

    Args:
      compared: the compressors; the first one's settings give the questions.
      folder: the workdir, in which the tokens are cached.
      report: called before each group of texts, and after each chunk of cramming.

    Raises:
      InputError: no question fits.
    """
    main = compared[0]
    settings, lm, made = main.setup.settings, main.setup.lm, finetuning(main.setup)
    tokens = question_tokens(main.setup, "test", folder / "tokens" / "test")
    sizes = dict(context=settings.context.length, prompt=made.prompt, answer=made.answer)
    rows, counts = fitting_questions(made, tokens)
    rows = rows[: settings.evaluate.num_texts]
    if not len(rows):
        raise InputError(
            "no question of the test set fits; raise question.prompt and question.answer"
        )
    batch = tokens.batch(rows, **sizes)
    examples, asked, eos = made.examples(batch), made.questions(batch), made.shapes.eos
    contexts, nothing = examples.contexts, np.zeros(0, np.int32)
    bare = [layout.full_context_row(question, nothing, eos) for question in asked]
    pairs = zip(asked, contexts, strict=True)
    full = [layout.full_context_row(question, text, eos) for question, text in pairs]
    most = made.answer + 1  # an answer that does not end is not exact

    def read(texts: list[layout.Row]) -> list[Record]:
        spoken = compressed.from_texts(lm, texts, num_tokens=most)
        return compressed.overlap(lm, spoken)

    def row(counts: Counts, make: Make, wanted: Any) -> list[Record]:
        numbered = zip(asked, counts(contexts), strict=True)
        texts = [wanted(question, count, eos) for question, count in numbered]
        return scored(lm, make, contexts, texts, most, report)

    named = {}
    for one in compared:
        counts_of = functools.partial(num_vectors, one)
        how = counts_of, by_compressor(one), layout.answer_row
        named[one.name] = functools.partial(row, *how)
    lines = untrained(
        main, layout.untrained_answer_row, report, remembered=layout.memory_answer_row
    )
    for name, how in lines.items():
        named[name] = functools.partial(row, *how)
    named["full context"] = lambda: read(full)
    named["no context"] = lambda: read(bare)
    return Study(named, rows.tolist(), "PwC test", counts)


class Made(NamedTuple):
    """The functions of a study: a check before the workdir is claimed, and the table."""

    check: Callable[[Setup], None]
    make: Callable[[Sequence[Compared], epath.Path, Callable[[], None]], Study]


STUDIES = {
    "reconstruction": Made(check_reconstructions, reconstructions),
    "answers": Made(check_answers, answers),
}


def check_evaluated(setup: Setup) -> None:
    """Raises `InputError` unless the study of stage evaluate can be made."""
    asked = setup.settings.evaluate
    check_choice("evaluate.study", asked.study, STUDIES)
    if asked.num_texts is not None and asked.num_texts < 1:
        raise InputError(
            f"evaluate.num_texts is {asked.num_texts}; give 1 or more, or None for all"
        )
    check_baselines(asked.baselines)
    if asked.cramming_starts and asked.study != "reconstruction":
        raise InputError(
            f"evaluate.cramming_starts does not belong to study {asked.study!r}; set it to "
            "False, or give study reconstruction"
        )
    check = STUDIES[asked.study].check
    check(setup)
    if asked.cramming or asked.cramming_starts:
        cram_config(setup)
    for beside, _ in load_beside(setup):  # they may make more vectors than the first
        check(beside)


def load_evaluated(setup: Setup) -> list[Compared]:
    """Loads the compressors to evaluate, and checks that their study can be made.

    Raises:
      InputError: a compressor cannot be loaded, or the study cannot be made.
    """
    check_evaluated(setup)
    return load_compared(setup)
