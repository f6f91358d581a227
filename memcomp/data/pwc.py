"""Prompt-with-Context: texts with 15 prompts each, and GPT-4's answers.

The files are PwC_train.jsonl and PwC_test.jsonl of the data set sggetao/PwC on the
Hugging Face Hub, which have to be downloaded by hand. `memcomp.data.question_sets` makes
files of the same format from stories.

Source: Ge et al. 2024, arXiv:2307.06945, appendix C; the filters are those of Wang et al.
2024, arXiv:2406.13618, data_utils.py.
"""

import collections
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from memcomp.data.files import json_rows, text_field
from memcomp.disk import local_path
from memcomp.errors import InputError

SPLITS = ("train", "test")
# The five prompts that every text has; the other ten are about its content.
GENERAL = frozenset(
    (
        "Write a paragraph (i.e., continuation) that follows the above text.",
        "Rephrase the above text.",
        "Summarize the above text.",
        "Write a title for the above text.",
        "Extract a few keywords for the above text.",
    )
)
_CJK = re.compile("[\u4e00-\u9fff\u3040-\u30ff\uff00-\uffef]")


class Question(NamedTuple):
    """Example: a text, a prompt about it, and the answer."""

    context: str
    prompt: str
    answer: str


# Name -> whether to leave a question out. Both filters are the authors': one full-width
# character in the context is enough, and a general prompt in another spelling passes.
FILTERS: dict[str, Callable[[Question], bool]] = {
    "cjk": lambda row: _CJK.search(row.context) is not None,
    "general": lambda row: row.prompt in GENERAL,
}
PUBLISHED = {"train": ("cjk",), "test": ("cjk", "general")}


def file_name(split: str) -> str:
    """Returns the name of a split's file."""
    return f"PwC_{split}.jsonl"


def find_pwc(split: str, manual_dir: str | None) -> pathlib.Path:
    """Returns the path of a split's file.

    Raises:
      InputError: the split is unknown, or the file is missing; the message says what to
        download, and from where.
    """
    if split not in SPLITS:
        raise InputError(f"PwC has no split {split!r}; give {' or '.join(SPLITS)}")
    name = file_name(split)
    path = local_path(manual_dir or "") / name
    if manual_dir is None or not path.is_file():
        where = f"{manual_dir} has no {name}" if manual_dir else "manual_dir is not set"
        raise InputError(
            f"{where}: get {name} of the data set sggetao/PwC from the Hugging Face Hub "
            f"and put it at {manual_dir or 'MANUAL_DIR'}/{name}"
        )
    return path


def read_pwc(
    path: pathlib.Path, filters: Sequence[str], counts: collections.Counter[str]
) -> Iterator[Question]:
    """Yields the questions that pass the filters, in the order of the file.

    Args:
      path: JSON lines with the fields input, prompt and answer.
      filters: keys of `FILTERS`.
      counts: counter that is updated with the questions "read", those "kept", those with an
        "empty" field, which are always left out, and those left out by each filter; a
        question counts for the first filter that it does not pass.

    Raises:
      InputError: a filter is unknown; or a line, named by its number, is not JSON or lacks
        a field.
    """
    if unknown := sorted(set(filters) - FILTERS.keys()):
        raise InputError(f"no filter {', '.join(unknown)}; there are {', '.join(FILTERS)}")
    for place, row in json_rows(path):
        fields = (text_field(row, name, place) for name in ("input", "prompt", "answer"))
        question = Question(*fields)
        counts["read"] += 1
        failed = (name for name in filters if FILTERS[name](question))
        if not all(text.strip() for text in question):
            counts["empty"] += 1
        elif name := next(failed, None):
            counts[name] += 1
        else:
            counts["kept"] += 1
            yield question
