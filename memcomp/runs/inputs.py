"""Loads what a config says to cram: the language model, the texts and the cram config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from memcomp.data.tokens import ids_to_text
from memcomp.lm.load import load_lm
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.twins import never_decoded
from memcomp.sharding import make_mesh

Note = Callable[[str], None]  # takes a message for the user about the input


def load_model(entries: Mapping[str, Any]) -> LanguageModel:
    """Loads the LM of a config such as configs/cram/base.py, on its mesh.

    Raises:
      InputError: the LM cannot be loaded, or not in this way.
    """
    return load_lm(
        entries["lm"],
        dtype=entries["dtype"],
        mesh=make_mesh(**entries["mesh"]),
        remat=entries["remat"],
        attention=entries["attention"],
    )


def load_texts(
    entries: Mapping[str, Any], lm: LanguageModel, note: Note, **options: Any
) -> tuple[list[tuple[str, str | np.ndarray]], str]:
    """Reads the texts of a config such as configs/cram/base.py.

    Args:
      entries: the fields of the config.
      lm: language model that gives the number of token ids, for "uniform_tokens".
      note: called with a message if the source has more texts.
      options: further options of `read_texts`.

    Returns:
      Pairs of a source's name and a text, and the SHA-256 of the source.

    Raises:
      InputError: see `read_texts`.
    """
    source = entries["texts"]
    options |= {name: entries[name] for name in ("field", "passages", "seed")}
    options |= {
        "vocabulary": entries["vocabulary"] or None,
        "manual_dir": entries["manual_dir"] or None,
        "vocab_size": num_token_ids(lm.tokenizer, lm.config.vocab_size),
    }
    found = read_texts(source, num_texts=entries["num_texts"], **options)
    note_more_texts(len(found), source, note, **options)
    return found, source_sha256(source, found, **options)


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


def note_never_decoded(
    lm: LanguageModel, texts: Sequence[Text], num_given: int, note: Note
) -> None:
    """Tells the user if texts have tokens that greedy decoding never gives.

    Args:
      lm: the language model.
      texts: the texts.
      num_given: number of first tokens that the protocol gives to the decoder.
      note: called with the message.
    """
    never = never_decoded(lm)
    found = [np.intersect1d(text.tokens[num_given:], never) for text in texts]
    if stuck := [tokens for tokens in found if len(tokens)]:
        token = int(stuck[0][0])
        shown = ids_to_text(lm.tokenizer, [token]) if lm.tokenizer else token
        note(
            f"{len(stuck)} of {len(texts)} texts cannot come back whole: they have tokens "
            f"such as {shown!r}, which no memory brings back, because a token with a lower "
            "id has the same output vector"
        )


def load_cramming(
    entries: Mapping[str, Any], note: Note
) -> tuple[LanguageModel, list[Text], CramConfig]:
    """Loads the LM and the texts, and makes the cram config; writes nothing.

    Args:
      entries: the nested fields of a config such as configs/cram/base.py.
      note: called with each message about the texts.

    Raises:
      InputError: the LM cannot be loaded, the texts cannot be read, or one does not fit.
    """
    seed, protocol = entries["seed"], entries["protocol"]
    cfg = CramConfig(seed=seed, protocol=protocol, **entries["cram"])
    lm = load_model(entries)
    found, sha256 = load_texts(entries, lm, note)
    texts = tokenize(
        lm.tokenizer,
        found,
        num_tokens=cfg.num_tokens,
        protocol=cfg.protocol,
        vocab_size=lm.config.vocab_size,
        source_sha256=sha256,
    )
    check_fits(lm, texts, cfg)
    note_never_decoded(lm, texts, cfg.num_given, note)
    return lm, texts, cfg
