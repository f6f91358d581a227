"""What a config says to cram, loaded: the language model, the texts, and how."""

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

Note = Callable[[str], None]  # is told what a user should know of the input


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """Which texts are taken; see `memcomp.data.texts.read_texts`.

    Attributes:
      texts: the source.
      field: of JSON lines or CSV rows, that has the text.
      num_texts: how many; None for the source's own number.
      passages: of each text.
      seed: of what is drawn.
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
    """The choice in the entries of a config such as configs/cram/base.py."""
    fields = dataclasses.fields(TextChoice)
    return TextChoice(**{field.name: entries[field.name] for field in fields})


class Texts(NamedTuple):
    """Texts that were chosen.

    Attributes:
      found: pairs of a source's name and a text, as from `read_texts`.
      sha256: of what they come from, as from `source_sha256`.
    """

    found: list[tuple[str, str | np.ndarray]]
    sha256: str


def load_texts(choice: TextChoice, lm: LanguageModel, note: Note, **options: Any) -> Texts:
    """The texts of a choice.

    Args:
      choice: which they are.
      lm: for "uniform_tokens".
      note: is told where a source has more texts.
      options: more of `read_texts`.

    Raises:
      InputError: as from `read_texts`.
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
    """Notes where a source has more texts than are taken.

    Args:
      taken: how many texts of it are taken.
      source: this and `options` as for `read_texts`.
      note: is told.
      options: of the source.
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
    """The LM, the texts and how they are crammed; nothing is written yet.

    Args:
      entries: the nested fields of a config such as configs/cram/base.py.
      note: is told where a source has more texts.

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
