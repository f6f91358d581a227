"""What a config says to cram, read; for the scripts whose configs have those fields."""

from typing import Any, NamedTuple

import numpy as np
from launch import Config, note

import memcomp
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
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import make_mesh


class Texts(NamedTuple):
    """Texts that a config names.

    Attributes:
      found: pairs of a source's name and a text, as from `read_texts`.
      sha256: of what they come from, as from `source_sha256`.
    """

    found: list[tuple[str, str | np.ndarray]]
    sha256: str


def config_texts(config: Config, lm: LanguageModel, **options: Any) -> Texts:
    """`read_texts` of the fields of configs/cram/base.py that say which.

    Args:
      config: with texts, field, num_texts, passages, seed, vocabulary and manual_dir.
      lm: for "uniform_tokens".
      options: more of `read_texts`.

    Raises:
      InputError: as from `read_texts`.
    """
    options |= {
        "field": config.field,
        "passages": config.passages,
        "seed": config.seed,
        "vocabulary": config.vocabulary or None,
        "manual_dir": config.manual_dir or None,
        "vocab_size": num_token_ids(lm.tokenizer, lm.config.vocab_size),
    }
    found = read_texts(config.texts, num_texts=config.num_texts, **options)
    say_how_many(len(found), config.texts, **options)
    return Texts(found, source_sha256(config.texts, found, **options))


def say_how_many(taken: int, source: str, **options: Any) -> None:
    """Notes where a source has more texts than are taken (`launch.note`).

    Args:
      taken: how many texts of it are taken.
      source: this and `options` as for `read_texts`.
    """
    total = count_texts(source, **options)
    if total is not None and total > taken:
        note(
            f"taking the first {taken} of {total} texts in {source}; num_texts={ALL} takes "
            "all"
        )


def config_cramming(
    config: Config,
) -> tuple[LanguageModel, list[Text], memcomp.CramConfig]:
    """The LM, the texts and how they are crammed; nothing is written yet.

    Args:
      config: with the fields of configs/cram/base.py.

    Raises:
      InputError: the LM cannot be loaded, the texts cannot be read, or one does not fit.
    """
    cfg = memcomp.CramConfig(seed=config.seed, protocol=config.protocol, **config.cram)
    how = {"remat": config.remat, "attention": config.attention}
    mesh = make_mesh(**config.mesh)
    lm = memcomp.load_lm(config.lm, dtype=config.dtype, mesh=mesh, **how)
    found, sha256 = config_texts(config, lm)
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
