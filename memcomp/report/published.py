"""The published numbers, from published.json, which says where each is from."""

import functools
import json
import pathlib
from typing import Any, NamedTuple

FILE = pathlib.Path(__file__).parent / "published.json"
SOURCES = {"pg19": "PG-19", "fanfics": "Fanfics", "random_words": "Random"}


class PublishedModel(NamedTuple):
    """A model of the paper.

    Attributes:
      name: as the paper's tables have it.
      ids: on the Hub.
      parameters, d_model, vocab_size: its size.
      table: number of the table that it is in.
    """

    name: str
    ids: list[str]
    parameters: int
    d_model: int
    vocab_size: int
    table: int


class PublishedCapacity(NamedTuple):
    """A cell of Table 1 or 3 or a point of Figure 4; gains are None where not given."""

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
    """A mean horizon; what was not given is None.

    Attributes:
      lm: on the Hub.
      recipe: ours with the same settings, as a report names it.
      tokens, tokens_std: mean and standard deviation over texts.
      bits, bits_std: the same of the information gain.
    """

    lm: str
    recipe: str
    tokens: float
    tokens_std: float | None
    bits: float | None
    bits_std: float | None


@functools.cache
def published() -> dict[str, Any]:
    """The file as it is."""
    return json.loads(FILE.read_text())


@functools.cache
def published_models() -> tuple[PublishedModel, ...]:
    """All models of the paper, in the order of its tables."""
    return tuple(PublishedModel(**row) for row in published()["models"])


@functools.cache
def published_model(lm: str) -> PublishedModel | None:
    """The model whose Hub id, or last part of it, is the name of an LM or folder."""
    for model in published_models():
        if _last_part(lm) in map(_last_part, model.ids):
            return model
    return None


def lm_name(lm: str) -> str:
    """An LM as tables and figures name it: as the paper does, or the end of its path."""
    model = published_model(lm)
    return model.name if model else lm.rstrip("/").rpartition("/")[2]


@functools.cache
def published_capacity(
    model: str, source: str, num_memory: int = 1
) -> PublishedCapacity | None:
    """What was published of a model on a source with some vectors."""
    for row in published()["capacity"]:
        if (row["model"], row["source"], row["num_memory"]) == (model, source, num_memory):
            return PublishedCapacity(**row)
    return None


@functools.cache
def published_horizons(lm: str) -> dict[str, PublishedHorizon]:
    """By recipe, what was published of an LM, or of the base model that it was tuned from.

    Args:
      lm: a Hub id, or a folder with the last part of one as its name.
    """
    rows = [PublishedHorizon(**row) for row in published()["horizons"]]
    return {row.recipe: row for row in rows if _last_part(row.lm) == _base(lm)}


@functools.cache
def published_attention(lm: str) -> float | None:
    """Percent of attention on memory that was published of an LM or its base model."""
    rows = {_last_part(row["lm"]): row["percent"] for row in published()["attention"]}
    return rows.get(_base(lm))


def published_lengths(model: PublishedModel, source: str) -> dict[int, dict[str, Any]]:
    """Length -> what was published of it for one vector of a model."""
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
