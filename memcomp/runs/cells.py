"""Cells: the runs that a sweep is made of, each of them in a folder of its own."""

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

Cell = dict[str, Any]  # what makes a run what it is: its config.json


def cell_of(
    mode: str,
    lm: str,
    dtype: str,
    source: str,
    texts: dict[str, Any],
    cfg: CramConfig,
) -> Cell:
    """The config of a cell; what may grow within it, such as lengths, is left out.

    Args:
      mode: what is measured.
      lm: name of the language model.
      dtype: of its weights and activations.
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
        "seed": cfg.seed,
        "protocol": cfg.protocol,
        "recipe": dataclasses.asdict(cfg.resolved_recipe()),
    }


def short_name(lm: str) -> str:
    """The last part of an LM's name, of characters that any file system takes."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", lm.rstrip("/").split("/")[-1])


def claim_cell(
    workdir: str | os.PathLike,
    name: str,
    cell: Cell,
    lm: LanguageModel,
    texts: Sequence[Text],
) -> epath.Path:
    """Makes the folder of a cell within a sweep's, or resumes the one that is there.

    Args:
      workdir: of the sweep.
      name: of the folder.
      cell: what makes the cell what it is.
      lm: that it belongs to.
      texts: whose source it belongs to.

    Raises:
      InputError: as from `claim_workdir`.
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
    """The cell's texts, all of `num_tokens`; the first n do not depend on `num_texts`.

    Args:
      lm: whose tokens they are.
      cell: whose texts they are.
      num_tokens: of each text.
      num_texts: how many.
      seed: of texts that are drawn.

    Raises:
      InputError: as from `read_texts` and `tokenize`.
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
