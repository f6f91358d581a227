"""Texts to compress: reads them from a source (`memcomp.data.sources`), and tokenizes them.

The built-in texts, `memcomp/builtin/texts.txt`, are 32 short passages written for
memcomp in the manner of English novels of 1840-1920; they are under its licence.
"""

import dataclasses
import hashlib
import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from memcomp.data.files import Found, content_sha256
from memcomp.data.sources import find_source
from memcomp.data.tokens import num_faithful, text_to_ids
from memcomp.errors import InputError
from memcomp.ranges import check_choice, check_count, check_seed

# Protocol -> whether the tokenizer's special tokens, such as BOS, are added.
PROTOCOLS = {"strict": False, "reference": True}
MOST_TEXTS = 100_000  # of a source, if a run has each of them several times
ALL = -1  # value of num_texts for all texts in configs, which cannot say None
# Where a passage may start, in order of preference: after a blank line, after the end of a
# sentence, after any space.
_STARTS = tuple(map(re.compile, (r"\n[ \t]*\n\s*", r"[.!?][\"'”’)]*\s+", r"\s+")))


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """One text as tokens.

    Attributes:
      text_id: position in its source, from 0.
      source: source of the text: a file name, "builtin", "random_words" or another.
      tokens: token ids, in the order of the text.
      num_faithful: number of leading tokens that decode to the same text
        (`memcomp.data.tokens.num_faithful`); None if the text was given as token ids.
      source_sha256: SHA-256 of the whole source (see `source_sha256`); None if it is
        unknown.
      restart: which of several initial memories of the same tokens in a run, from 0.
      own_seed_id: the `seed_id` if it is not `text_id`.
    """

    text_id: int
    source: str
    tokens: Int32[np.ndarray, " T"]
    num_faithful: int | None = None
    source_sha256: str | None = None
    restart: int = 0
    own_seed_id: int | None = None

    @property
    def seed_id(self) -> int:
        """Folded into the seed of the initial memory; different for all texts of a run.

        It tells results apart and has no other meaning.
        """
        return self.text_id if self.own_seed_id is None else self.own_seed_id

    @property
    def comes_back(self) -> bool | None:
        """Whether all tokens decode to the same text; None if it was given as ids."""
        return None if self.num_faithful is None else self.num_faithful >= len(self.tokens)

    def beginning(self, num_tokens: int) -> "Text":
        """Returns the first tokens; in a sweep over lengths each has its own `seed_id`."""
        return dataclasses.replace(
            self, tokens=self.tokens[:num_tokens], own_seed_id=self._variant(num_tokens)
        )

    def again(self, restart: int) -> "Text":
        """Returns the same tokens with another initial memory."""
        seed_id = self._variant(restart)
        return dataclasses.replace(self, restart=restart, own_seed_id=seed_id)

    def _variant(self, number: int) -> int:
        """Returns the `seed_id` of one of several variants of this text."""
        if self.text_id >= MOST_TEXTS:
            raise InputError(
                f"text {self.text_id} is one too many for a run at several lengths or with "
                f"restarts; give at most {MOST_TEXTS} texts"
            )
        return number * MOST_TEXTS + self.text_id


def read_texts(
    source: str,
    *,
    field: str = "text",
    num_texts: int | None = None,
    passages: int = 1,
    seed: int = 0,
    vocabulary: str | None = None,
    num_words: int = 4096,
    manual_dir: str | None = None,
    vocab_size: int | None = None,
) -> list[tuple[str, str | np.ndarray]]:
    r"""Reads texts with the names of their sources, always in the same order.

    Whitespace is collapsed, `" ".join(text.split())`, because line breaks belong to the
    file and not to the text. The first n texts do not depend on `num_texts`.

    Args:
      source: one of
        "builtin": the 32 passages that ship with memcomp;
        "random_words": words drawn uniformly, with replacement, from `vocabulary`, and
        joined by spaces; text i is drawn by `default_rng([seed, i])`, so that neither
        `num_texts` nor `num_words` changes its beginning;
        "uniform_tokens": token ids, drawn in the same way from 0..vocab_size - 1;
        "pg19": 1000 chunks of the books in `manual_dir`, drawn by `seed`, of which the
        second half is taken, counted in sentences (`memcomp.data.chunks`); made once, and
        kept in the folder TFDS_DATA_DIR, or else in ~/tensorflow_datasets;
        "pg19_csv", "fanfics_csv": the same from the chunks that the authors published;
        "-": standard input, one text per line;
        a folder: every .txt at and below it, sorted by path, each file one text;
        a .txt file: one text;
        a .jsonl or .csv file: one text per line or row. Empty lines are skipped where a
        line is a text. A file with a name in quotes above is given as "./builtin".
      field: field of a .jsonl line, or column of a .csv file, that has the text.
      num_texts: number of texts; None or `ALL` for all, which "random_words" and
        "uniform_tokens" do not allow.
      passages: number of passages into which each text is cut; each is then a text.
        Passage k starts at character k * length // passages, moved on to the next
        paragraph, or else to the next sentence or word in this part, and ends where the
        next one starts. It is for several beginnings from one novel.
      seed: seed of all draws, at least 0.
      vocabulary: file with one word per line, for "random_words".
      num_words: number of words or ids of each drawn text, at least that of the tokens.
      manual_dir: folder of files that have to be downloaded by hand; the error says which.
      vocab_size: number of ids for "uniform_tokens": `num_token_ids` of the LM.

    Raises:
      InputError: the source does not exist, a file cannot be read, a text is empty, or
        there are fewer texts than `num_texts`. Texts after the last one are not checked.

    Source: Kuratov et al. 2025, arXiv:2502.13063, preprocess_pg19 and train.py, which
    draw five times as many words as tokens; nothing is seeded there.
    """
    num_texts = None if num_texts == ALL else num_texts
    counts = {"num_texts": num_texts, "passages": passages, "num_words": num_words}
    for name, value in counts.items():
        check_count(name, 1 if value is None else value)
    check_seed("seed", seed)
    if find_source(source).endless and num_texts is None:
        raise InputError(f'texts "{source}" have no end; say num_texts')
    options = {
        "field": field,
        "seed": seed,
        "vocabulary": vocabulary,
        "num_words": num_words,
        "manual_dir": manual_dir,
        "vocab_size": vocab_size,
    }
    found = (
        (text, passage)
        for text in _found(source, options)
        for passage in _cut(text, passages)
    )
    texts = []
    for text, passage in itertools.islice(found, num_texts):
        if isinstance(passage, str):
            passage = " ".join(passage.split())
        if not len(passage):
            raise InputError(f"{text.place} is an empty text; remove it or fill it")
        texts.append((text.source, passage))
    if len(texts) < (num_texts or 1):
        where = "standard input" if source == "-" else source
        raise InputError(
            f"{where} has {len(texts)} texts where {num_texts or 1} are wanted; "
            "lower num_texts or give more texts"
        )
    return texts


def count_texts(source: str, **options: Any) -> int | None:
    """Number of texts of a source; None if it is endless or unknown.

    Args:
      source: source as for `read_texts`.
      **options: options of `read_texts`.
    """
    if source == "-" or find_source(source).endless:
        return None
    try:
        return len(read_texts(source, num_texts=None, **options))
    except InputError:  # a bad text, perhaps after those that are wanted
        return None


def source_sha256(
    source: str,
    texts: Iterable[tuple[str, str | np.ndarray]],
    *,
    field: str = "text",
    passages: int = 1,
    seed: int = 0,
    vocabulary: str | None = None,
    manual_dir: str | None = None,
    **sizes: Any,
) -> str:
    """SHA-256 of what determines the texts of a source: files, field, passages, seed.

    Except for standard input, it does not depend on how many texts are taken.

    Args:
      source: source; it and the options up to `manual_dir` are as for `read_texts`.
      texts: texts that `read_texts` returned.
      **sizes: other options of `read_texts`, which do not change how a text begins.

    Raises:
      InputError: as from `read_texts`.
    """
    found = find_source(source)
    options: dict[str, Any] = {"field": field, "seed": seed, "vocabulary": vocabulary}
    options |= {"manual_dir": manual_dir}
    chosen = {name: options[name] for name in found.options if name in options}
    chosen["passages"] = passages
    if source == "-":  # standard input can be read only once
        chosen["texts"] = [text for _, text in texts]
    return content_sha256(found.files(options), chosen)


def _found(name: str, options: dict[str, Any]) -> Iterator[Found]:
    source = find_source(name)
    if not source.stored:
        return source.found(options)
    # Imported here, because TensorFlow Datasets takes a second to import.
    from memcomp.data.corpora import read_stored

    return read_stored(name, options)


def num_token_ids(tokenizer: Any, vocab_size: int) -> int:
    """Number of ids that stand for a token.

    Embedding tables are often padded (Pythia's to 50,304 entries for 50,277 tokens). The
    additional entries are not trained, and no text can have them.

    Args:
      tokenizer: tokenizer of transformers, or None.
      vocab_size: number of entries of the embedding table.
    """
    return vocab_size if tokenizer is None else min(len(tokenizer), vocab_size)


def text_sha256(tokens: Int[np.ndarray, " T"]) -> str:
    """SHA-256 of token ids as little-endian int32, in hexadecimal."""
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()


def texts_fingerprint(texts: Iterable[Text]) -> str:
    """SHA-256 of the lengths (little-endian int64) and ids (int32) of texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text.tokens).to_bytes(8, "little"))
        digest.update(text.tokens.astype("<i4").tobytes())
    return digest.hexdigest()


def tokenize(
    tokenizer: Any,
    texts: Iterable[Any],
    *,
    num_tokens: int | Sequence[int] | None,
    protocol: str = "strict",
    vocab_size: int | None = None,
    source_sha256: str | None = None,
) -> list[Text]:
    """Tokenizes the beginning of each text; `text_id` is the position in `texts`.

    Args:
      tokenizer: tokenizer of transformers; None if all texts are token ids.
      texts: pairs (source, text) as from `read_texts`, strings, or one-dimensional
        arrays of token ids. Whitespace is kept; ids get no special tokens.
      num_tokens: number of tokens of every text, or one number for each; None for whole
        texts. Special tokens count.
      protocol: "strict" adds no special tokens; "reference" adds those that the
        tokenizer adds by default, so that BOS is the first token if there is one.
      vocab_size: ids must be below it; None for any id.
      source_sha256: see `Text`.

    Raises:
      InputError: a text is empty or has fewer tokens than asked for, ids are outside the
        vocabulary, strings come without a tokenizer, or the protocol is unknown.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    texts = list(texts)
    result = []
    for text_id, (text, length) in enumerate(
        zip(texts, _lengths(num_tokens, len(texts)), strict=True)
    ):
        source, content = text if _is_pair(text) else ("given", text)
        name = f"text {text_id} ({source})"
        faithful = None
        if isinstance(content, str):
            ids = _encode(tokenizer, content, length, PROTOCOLS[protocol], name)
            if not ids.size:
                raise InputError(
                    f"{name} has no tokens, as the tokenizer drops all that it does not "
                    "know; remove the text, or take another language model"
                )
            tokens = _checked(ids, length, vocab_size, name)
            whole = len(tokens) == len(ids)
            faithful = num_faithful(tokenizer, tokens, content, whole=whole)
        else:
            tokens = _checked(np.asarray(content), length, vocab_size, name)
        result.append(Text(text_id, source, tokens, faithful, source_sha256))
    return result


def _is_pair(text: Any) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and isinstance(text[0], str)


def _lengths(num_tokens: Any, num_texts: int) -> Sequence[int | None]:
    if num_tokens is None:
        return [None] * num_texts
    several = num_tokens if np.iterable(num_tokens) else [num_tokens]
    try:
        lengths = list(map(operator.index, several))
    except TypeError as error:
        raise InputError(
            f"num_tokens is {num_tokens!r}; give a whole number, or one a text"
        ) from error
    if len(lengths) == 1:  # a tuple with one number, as in a config or a flag
        lengths = lengths * num_texts
    if len(lengths) != num_texts:
        raise InputError(
            f"num_tokens has {len(lengths)} numbers for {num_texts} texts; "
            "give one number, or one a text"
        )
    if any(n < 1 for n in lengths):
        raise InputError(f"num_tokens is {min(lengths)}; give 1 or more")
    return lengths


def _encode(
    tokenizer: Any, text: str, length: int | None, special: bool, name: str
) -> np.ndarray:
    if tokenizer is None:
        raise InputError(
            f"{name} is a string and the language model has no tokenizer; "
            "give token ids, or a folder with a tokenizer.json"
        )
    if not text.strip():
        raise InputError(f"{name} is empty; remove it or fill it")
    # A novel is not tokenized whole for its first tokens. Tokens near the cut may differ
    # from those of the whole text, so 16 more than are needed are made, which is more than
    # a word affects.
    if length is not None:
        for end in (8 * length + 256, 64 * length + 2048):
            ids = text_to_ids(tokenizer, text[:end], special_tokens=special)
            if len(ids) >= length + 16 or end >= len(text):
                return ids
    return text_to_ids(tokenizer, text, special_tokens=special)


def _checked(
    ids: np.ndarray, length: int | None, vocab_size: int | None, name: str
) -> np.ndarray:
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise InputError(
            f"{name} is an array of {ids.dtype} with {ids.ndim} axes; "
            "give a string or a one-dimensional array of integer token ids"
        )
    if ids.size == 0:
        raise InputError(f"{name} is empty; remove it or fill it")
    if length is not None and ids.size < length:
        raise InputError(
            f"{name} has {ids.size} tokens, fewer than num_tokens = {length}; "
            "give a longer text or ask for fewer tokens"
        )
    ids = ids[:length]
    top = np.iinfo(np.int32).max + 1 if vocab_size is None else vocab_size
    if ids.min() < 0 or ids.max() >= top:
        bad = ids[(ids < 0) | (ids >= top)][0]
        raise InputError(f"{name} has token id {bad}; give ids from 0 to {top - 1}")
    return ids.astype(np.int32)


def _cut(found: Found, passages: int) -> Iterator[str | np.ndarray]:
    """Yields the passages of one text; see `read_texts`."""
    text = found.text
    if not isinstance(text, str):
        if passages > 1:
            raise InputError(f"{found.source} has no passages; set passages to 1")
        yield text
        return
    ends = [k * len(text) // passages for k in range(1, passages + 1)]
    starts = [0]
    for low, high in itertools.pairwise(ends):
        matches = (pattern.search(text, low, high) for pattern in _STARTS)
        starts.append(next((m.end() for m in matches if m), high))
    for start, end in itertools.pairwise([*starts, len(text)]):
        if passages > 1 and not text[start:end].strip():
            raise InputError(
                f"{found.place} is too short for {passages} passages; ask for fewer"
            )
        yield text[start:end]
