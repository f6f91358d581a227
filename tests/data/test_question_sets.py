"""Sets of questions about stories: split by story, and read as PwC is."""

import collections
import json

import numpy as np
import pytest

from memcomp.data.pwc import PUBLISHED, SPLITS, file_name, find_pwc, read_pwc
from memcomp.data.question_sets import (
    QuestionSetConfig,
    num_guessed,
    question_sets,
    split_of,
)
from memcomp.data.story_questions import passages, questions
from memcomp.errors import InputError

CONFIG = QuestionSetConfig(num_words=12, test_part=0.4)


SHARED = "She saw a green tree near him."


def story(i):
    """Story i, of several passages; every third one shares a passage with others."""
    rng = np.random.default_rng(i)
    name, colour = rng.choice(["Lily", "Tim", "Max"]), rng.choice(["red", "blue"])
    shared = SHARED if i % 3 == 0 else f"Day {i} was warm."
    return (
        f"Once upon a time, a girl named {name} had {i} cats. {shared} "
        f"All of them went home in the {colour} car on day {i}."
    )


STORIES = [story(i) for i in range(40)]


@pytest.fixture(scope="module")
def sets():
    return question_sets(STORIES, CONFIG)


def test_no_story_and_no_context_is_in_both_splits(sets):
    contexts = [{row["input"] for row in sets.rows[split]} for split in SPLITS]
    assert contexts[0] and contexts[1] and not contexts[0] & contexts[1]
    # Which stories these are is found here by their text, not by their hash.
    owners = [
        {
            i
            for i, text in enumerate(STORIES)
            for one in own
            if one != SHARED and one in text
        }
        for own in contexts
    ]
    assert len(owners[0] | owners[1]) == len(STORIES) and not owners[0] & owners[1]
    keys = [{row["story"] for row in sets.rows[split]} for split in SPLITS]
    assert list(map(len, keys)) == list(map(len, owners))


def test_stories_that_occur_again_are_left_out(sets):
    again = question_sets([*STORIES, "  ".join(STORIES[:20]), *STORIES], CONFIG)
    assert again == sets


def test_more_stories_move_none_to_the_other_split(sets):
    fewer = question_sets(STORIES[:20], CONFIG)
    for split in SPLITS:
        rows = sets.rows[split]
        assert [r for r in rows if r in fewer.rows[split]] == fewer.rows[split]


def test_the_split_is_that_of_the_seed():
    assert split_of("A story.", CONFIG) == (
        "70fd33128420c778",
        "train",
    )  # another Python's too
    other = QuestionSetConfig(seed=1, num_words=12, test_part=0.4)
    splits = [[split_of(one, cfg)[1] for one in STORIES] for cfg in (CONFIG, other)]
    assert splits[0] != splits[1]


def test_the_part_of_stories_for_testing():
    many = [str(i) for i in range(4000)]
    part = np.mean([split_of(one, CONFIG)[1] == "test" for one in many])
    assert abs(part - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 4000)


def test_counts(sets):
    for split in SPLITS:
        counts, rows = sets.counts[split], sets.rows[split]
        assert counts["num_questions"] == len(rows)
        assert counts["who"] + counts["where"] + counts["colour"] == len(rows)
        assert counts["num_stories"] == len({row["story"] for row in rows})
    assert sets.counts["num_stories"] == len(STORIES)


def test_guesses_are_the_most_frequent_training_answers():
    def rows(*found):
        return [dict(zip(("kind", "prompt", "answer"), x, strict=True)) for x in found]

    cat, dog = ("who", "Who is the cat?"), ("who", "Who is the dog?")
    train = rows((*cat, "Tom"), (*cat, "Max"), (*cat, "Max"), (*dog, "Rex"))
    assert num_guessed(train, rows((*cat, "Max"), (*cat, "Tom"), (*dog, "Rex"))) == 2
    ran, where = ("who", "Who ran?"), ("where", "Where did Tom go?")
    assert num_guessed(train, rows((*ran, "Max"), (*ran, "Tom"), (*where, "Max"))) == 1


def test_files_are_read_as_those_of_pwc(sets, tmp_path):
    found = []
    for split in SPLITS:
        (tmp_path / file_name(split)).write_text(sets.lines(split))
        counts = collections.Counter()
        path = find_pwc(split, str(tmp_path))
        found += read_pwc(path, PUBLISHED[split], counts)
        assert counts == {"read": len(sets.rows[split]), "kept": len(sets.rows[split])}
        kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
        assert kinds == [row["kind"] for row in sets.rows[split]]
    wanted = {
        one.question
        for text in STORIES
        for passage in passages(text, CONFIG.num_words)
        for one in questions(passage)
    }
    assert set(found) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"num_words": 0}, "num_words is 0"),
        ({"test_part": 0.0}, "test_part is 0.0; it must be above 0"),
        ({"test_part": 1.0}, "test_part is 1.0; it must be below 1"),
        ({"test_part": float("nan")}, "test_part is nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        QuestionSetConfig(**options)


def test_sets_without_questions_are_refused():
    with pytest.raises(InputError, match="no question for train and test in 1 stories"):
        question_sets(["It rained."], CONFIG)
    with pytest.raises(InputError, match="no question for (train|test) in 1 stories"):
        question_sets(STORIES[:1], CONFIG)
