"""Cells: the runs of a sweep, each in its own folder."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.data.texts import Text, num_token_ids, read_texts, source_sha256, tokenize
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.cramming import describe
from memcomp.runs.files import claim_workdir

Cell = dict[str, Any]  # the config of a run, as in its config.json


def cell_of(
    mode: str,
    lm: str,
    dtype: str,
    source: str,
    texts: dict[str, Any],
    cfg: CramConfig,
) -> Cell:
    """Makes the config of a cell.

    It leaves out what may grow while the cell stays the same, such as the text length.

    Args:
      mode: what is measured.
      lm: name of the language model.
      dtype: dtype of the LM's parameters and activations.
      source: short name of the texts.
      texts: options of `read_texts`.
      cfg: how the texts are crammed.
    """
    return {
        "mode": mode,
        "lm": lm,
        "dtype": dtype,
        "source": source,
        "texts": texts,
        "num_memory": cfg.num_memory,
        "memory": cfg.memory,
        "seed": cfg.seed,
        "protocol": cfg.protocol,
        "recipe": dataclasses.asdict(cfg.resolved_recipe()),
    }


def short_name(lm: str) -> str:
    """Last part of an LM's name, in which only letters, digits and dots are kept."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", lm.rstrip("/").split("/")[-1])


def claim_cell(
    workdir: str | os.PathLike,
    name: str,
    cell: Cell,
    lm: LanguageModel,
    texts: Sequence[Text],
) -> epath.Path:
    """Makes the folder of a cell within the sweep's folder, or resumes an existing one.

    Args:
      workdir: folder of the sweep.
      name: name of the cell's folder.
      cell: config of the cell.
      lm: the language model, whose SHA-256 is recorded.
      texts: texts, the SHA-256 of whose source is recorded.

    Raises:
      InputError: see `claim_workdir`.
    """
    folder = claim_workdir(workdir, {"grid": "capacity"}, {})
    return claim_workdir(
        folder / "cells" / name, cell, describe(lm, texts[0].source_sha256)
    )


def cell_texts(
    lm: LanguageModel,
    cell: Cell,
    *,
    num_tokens: int,
    num_texts: int,
    seed: int,
) -> list[Text]:
    """Reads the cell's texts; the first n do not depend on `num_texts`.

    Args:
      lm: language model whose tokenizer is used.
      cell: config of the cell.
      num_tokens: length of every text in tokens.
      num_texts: number of texts.
      seed: seed for texts that are drawn at random.

    Raises:
      InputError: see `read_texts` and `tokenize`.
    """
    options = cell["texts"] | {
        "seed": seed,
        "vocab_size": num_token_ids(lm.tokenizer, lm.config.vocab_size),
    }
    found = read_texts(**options, num_texts=num_texts)
    texts = tokenize(
        lm.tokenizer,
        found,
        num_tokens=num_tokens,
        protocol=cell["protocol"],
        vocab_size=lm.config.vocab_size,
        source_sha256=source_sha256(texts=found, **options),
    )
    return [dataclasses.replace(text, source=cell["source"]) for text in texts]
