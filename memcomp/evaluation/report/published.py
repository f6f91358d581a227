"""The published numbers, from published.json, which says where each is from."""

import functools
import json
import pathlib
from typing import Any, NamedTuple

FILE = pathlib.Path(__file__).parent.parent / "published.json"
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
    name = lm.rstrip("/").rpartition("/")[2].lower()
    for model in published_models():
        if name in (identifier.rpartition("/")[2].lower() for identifier in model.ids):
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
def published_ratios(method: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of Table 4's ratios of a method, by source."""
    return {
        row["source"]: (row["ratio"], row["ratio_std"])
        for row in published()["compression"]
        if row["method"] == method
    }
