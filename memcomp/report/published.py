"""Published numbers, from published.json, which names the source of each."""

import functools
import json
import pathlib
from typing import Any, NamedTuple

FILE = pathlib.Path(__file__).parent / "published.json"
SOURCES = {"pg19": "PG-19", "fanfics": "Fanfics", "random_words": "Random"}


class PublishedModel(NamedTuple):
    """A model of the paper.

    Attributes:
      name: name in the paper's tables.
      ids: ids on the Hugging Face Hub.
      parameters, d_model, vocab_size: sizes of the model.
      table: number of the table that the model is in.
    """

    name: str
    ids: list[str]
    parameters: int
    d_model: int
    vocab_size: int
    table: int


class PublishedCapacity(NamedTuple):
    """A cell of Table 1 or 3, or a point of Figure 4; gains are None if not published."""

    where: str
    model: str
    source: str
    num_memory: int
    max: int
    gain: float | None
    gain_std: float | None
    nats: float | None
    nats_std: float | None


class PublishedHorizon(NamedTuple):
    """A published mean horizon; numbers that were not published are None.

    Attributes:
      lm: id of the LM on the Hugging Face Hub.
      recipe: our recipe with the same settings, as a report names it.
      tokens, tokens_std: mean and standard deviation over texts.
      bits, bits_std: mean and standard deviation of the information gain.
    """

    lm: str
    recipe: str
    tokens: float
    tokens_std: float | None
    bits: float | None
    bits_std: float | None


@functools.cache
def published() -> dict[str, Any]:
    """Content of the file."""
    return json.loads(FILE.read_text())


@functools.cache
def published_models() -> tuple[PublishedModel, ...]:
    """All models of the paper, in the order of its tables."""
    return tuple(PublishedModel(**row) for row in published()["models"])


@functools.cache
def published_model(lm: str) -> PublishedModel | None:
    """The model whose Hub id ends in the same name as an LM or its folder; or None."""
    for model in published_models():
        if _last_part(lm) in map(_last_part, model.ids):
            return model
    return None


def lm_name(lm: str) -> str:
    """Name of an LM in tables and figures: the paper's name, or the end of its path."""
    model = published_model(lm)
    return model.name if model else lm.rstrip("/").rpartition("/")[2]


@functools.cache
def published_capacity(
    model: str, source: str, num_memory: int = 1
) -> PublishedCapacity | None:
    """Published capacity of a model, on a source, with some number of vectors."""
    for row in published()["capacity"]:
        if (row["model"], row["source"], row["num_memory"]) == (model, source, num_memory):
            return PublishedCapacity(**row)
    return None


@functools.cache
def published_horizons(lm: str) -> dict[str, PublishedHorizon]:
    """Published horizons of an LM, or of its base model, by recipe.

    Args:
      lm: a Hub id, or a folder whose name is the last part of one.
    """
    rows = [PublishedHorizon(**row) for row in published()["horizons"]]
    return {row.recipe: row for row in rows if _last_part(row.lm) == _base(lm)}


@functools.cache
def published_attention(lm: str) -> float | None:
    """Published percentage of attention on memory, of an LM or its base model."""
    rows = {_last_part(row["lm"]): row["percent"] for row in published()["attention"]}
    return rows.get(_base(lm))


def published_lengths(model: PublishedModel, source: str) -> dict[int, dict[str, Any]]:
    """Published numbers for one vector of a model, by length of the text."""
    return {
        row["num_tokens"]: row
        for row in published()["lengths"]
        if (row["model"], row["source"]) == (model.name, source)
    }


def _base(lm: str) -> str:
    return _last_part(lm).removesuffix("-instruct")


def _last_part(lm: str) -> str:
    return lm.rstrip("/").rpartition("/")[2].lower()


@functools.cache
def published_ratios(method: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of Table 4's ratios of a method, by source."""
    return {
        row["source"]: (row["ratio"], row["ratio_std"])
        for row in published()["compression"]
        if row["method"] == method
    }
