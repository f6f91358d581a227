"""Loads what a config says to cram: the language model, the texts and the cram config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from memcomp.cram.config import CramConfig
from memcomp.cram.schedule import check_fits
from memcomp.data.texts import (
    ALL,
    Text,
    count_texts,
    num_token_ids,
    read_texts,
    source_sha256,
    tokenize,
)
from memcomp.lm.load import load_lm
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import make_mesh

Note = Callable[[str], None]  # takes a message for the user about the input


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """Which texts are taken; see `memcomp.data.texts.read_texts`.

    Attributes:
      texts: the source.
      field: field of a JSON line or CSV record that holds the text.
      num_texts: number of texts; None for the source's own number.
      passages: number of passages from each text.
      seed: seed for what is drawn at random.
      vocabulary: file of the words of "random_words"; "" for none.
      manual_dir: folder of files that cannot be downloaded; "" for none.
    """

    texts: str
    field: str
    num_texts: int | None
    passages: int
    seed: int
    vocabulary: str
    manual_dir: str


def text_choice(entries: Mapping[str, Any]) -> TextChoice:
    """Makes a choice from the fields of a config such as configs/cram/base.py."""
    fields = dataclasses.fields(TextChoice)
    return TextChoice(**{field.name: entries[field.name] for field in fields})


class Texts(NamedTuple):
    """Texts that were chosen.

    Attributes:
      found: pairs of a source's name and a text, as from `read_texts`.
      sha256: SHA-256 of their source, as from `source_sha256`.
    """

    found: list[tuple[str, str | np.ndarray]]
    sha256: str


def load_texts(choice: TextChoice, lm: LanguageModel, note: Note, **options: Any) -> Texts:
    """Reads the texts of a choice.

    Args:
      choice: which texts to read.
      lm: language model that gives the number of token ids, for "uniform_tokens".
      note: called with a message if the source has more texts.
      options: further options of `read_texts`.

    Raises:
      InputError: see `read_texts`.
    """
    options |= {
        "field": choice.field,
        "passages": choice.passages,
        "seed": choice.seed,
        "vocabulary": choice.vocabulary or None,
        "manual_dir": choice.manual_dir or None,
        "vocab_size": num_token_ids(lm.tokenizer, lm.config.vocab_size),
    }
    found = read_texts(choice.texts, num_texts=choice.num_texts, **options)
    note_more_texts(len(found), choice.texts, note, **options)
    return Texts(found, source_sha256(choice.texts, found, **options))


def note_more_texts(taken: int, source: str, note: Note, **options: Any) -> None:
    """Tells the user if a source has more texts than are taken.

    Args:
      taken: number of texts that are taken.
      source: the source, as for `read_texts`.
      note: called with the message.
      options: options of the source, as for `read_texts`.
    """
    total = count_texts(source, **options)
    if total is not None and total > taken:
        note(
            f"taking the first {taken} of {total} texts in {source}; num_texts={ALL} takes "
            "all"
        )


def load_cramming(
    entries: Mapping[str, Any], note: Note
) -> tuple[LanguageModel, list[Text], CramConfig]:
    """Loads the LM and the texts, and makes the cram config; writes nothing.

    Args:
      entries: the nested fields of a config such as configs/cram/base.py.
      note: called with a message if the source has more texts.

    Raises:
      InputError: the LM cannot be loaded, the texts cannot be read, or one does not fit.
    """
    seed, protocol = entries["seed"], entries["protocol"]
    cfg = CramConfig(seed=seed, protocol=protocol, **entries["cram"])
    lm = load_lm(
        entries["lm"],
        dtype=entries["dtype"],
        mesh=make_mesh(**entries["mesh"]),
        remat=entries["remat"],
        attention=entries["attention"],
    )
    found, sha256 = load_texts(text_choice(entries), lm, note)
    texts = tokenize(
        lm.tokenizer,
        found,
        num_tokens=cfg.num_tokens,
        protocol=cfg.protocol,
        vocab_size=lm.config.vocab_size,
        source_sha256=sha256,
    )
    check_fits(lm, texts, cfg)
    return lm, texts, cfg
