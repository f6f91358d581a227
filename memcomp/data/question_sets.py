"""Questions about stories as two sets, to train on and to test with, split by story."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memcomp.data.pwc import SPLITS
from memcomp.data.story_questions import KINDS, passages, questions, stories
from memcomp.errors import InputError
from memcomp.ranges import check_count, check_number, check_seed


@dataclasses.dataclass(frozen=True)
class QuestionSetConfig:
    """Config of question sets.

    Attributes:
      seed: seed of the split, at least 0.
      num_words: largest number of words of a context.
      test_part: probability that a story is in the test set, between 0 and 1.

    Raises:
      InputError: a value is out of its range.
    """

    seed: int = 0
    num_words: int = 40
    test_part: float = 0.2

    def __post_init__(self):
        check_seed("seed", self.seed)
        check_count("num_words", self.num_words)
        check_number("test_part", self.test_part, above=0)
        if self.test_part >= 1:
            raise InputError(f"test_part is {self.test_part}; it must be below 1")


class QuestionSets(NamedTuple):
    """The sets of both splits.

    Attributes:
      rows: for each split, objects of a file in the format of `memcomp.data.pwc`: `input`,
        `prompt` and `answer`, and also the `kind` of question and the `story`, a hash.
      counts: `num_stories` and `num_passages`, and for each split the number of stories
        with a question, of questions, and of questions of each kind. The entry of "test"
        also has `num_guessed`; see the function of this name.
    """

    rows: Mapping[str, Sequence[Mapping[str, str]]]
    counts: Mapping[str, Any]

    def lines(self, split: str) -> str:
        """Returns the content of a split's file of JSON lines."""
        return "".join(json.dumps(row) + "\n" for row in self.rows[split])


def question_sets(texts: Iterable[str], cfg: QuestionSetConfig) -> QuestionSets:
    """Makes the questions about all stories of some texts, in the order of the texts.

    The split of a story depends only on the seed and on its words, so that more texts move
    no story to the other split. A story or a passage that occurs again is left out.

    Args:
      texts: texts of one story or several; see `memcomp.data.story_questions.stories`.
      cfg: the config.

    Raises:
      InputError: a split would have no question.
    """
    rows: dict[str, list[Mapping[str, str]]] = {split: [] for split in SPLITS}
    own = list(dict.fromkeys(story for text in texts for story in stories(text)))
    seen: set[str] = set()
    for story in own:
        key, split = split_of(story, cfg)
        for passage in passages(story, cfg.num_words):
            if passage in seen:
                continue
            seen.add(passage)
            for kind, (context, prompt, answer) in questions(passage):
                row = {"input": context, "prompt": prompt, "answer": answer}
                rows[split].append(row | {"kind": kind, "story": key})
    if empty := [split for split in SPLITS if not rows[split]]:
        found = ", ".join(f"{len(rows[split])} for {split}" for split in SPLITS)
        raise InputError(
            f"the rules find no question for {' and '.join(empty)} in {len(own)} stories "
            f"({found}); give more stories, or another test_part"
        )
    counts: dict[str, Any] = {split: _counts(rows[split]) for split in SPLITS}
    counts["test"]["num_guessed"] = num_guessed(rows["train"], rows["test"])
    return QuestionSets(rows, {"num_stories": len(own), "num_passages": len(seen)} | counts)


def num_guessed(
    train: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]]
) -> int:
    """Number of test questions that are answered right without their context.

    The guess is the most frequent answer in `train` to the same question, or else to
    questions of the same kind; of several the first one.
    """
    answers: dict[str, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for row in train:
        for name in (row["prompt"], row["kind"]):
            answers[name][row["answer"]] += 1

    def guess(row: Mapping[str, str]) -> str | None:
        known = answers.get(row["prompt"]) or answers.get(row["kind"])
        return known.most_common(1)[0][0] if known else None

    return sum(guess(row) == row["answer"] for row in test)


def split_of(story: str, cfg: QuestionSetConfig) -> tuple[str, str]:
    """Returns the hash of a story, in hexadecimal, and its split."""
    digest = hashlib.blake2b(f"{cfg.seed}\0{story}".encode(), digest_size=8).hexdigest()
    return digest, "test" if int(digest, 16) < cfg.test_part * 2**64 else "train"


def _counts(rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
    kinds = collections.Counter(row["kind"] for row in rows)
    counts = {
        "num_stories": len({row["story"] for row in rows}),
        "num_questions": len(rows),
    }
    return counts | {kind: kinds[kind] for kind in KINDS}
