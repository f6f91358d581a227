"""Questions about stories: rules find them, and each has one right answer."""

import numpy as np
import pytest

from memcomp.data import story_questions
from memcomp.data.story_questions import KINDS, RULES, passages, questions, stories

# Passage -> kind, question and answer that it has to give; one or more for each rule.
FOUND = [
    ("There was a little girl named Lily.", "who", "Who is the girl?", "Lily"),
    ("A dog called Max ran away.", "who", "Who is the dog?", "Max"),
    ("One day, Tim wanted to run fast.", "who", "Who wanted to run fast?", "Tim"),
    ("Sue saw a big cat, but it hid.", "who", "Who saw a big cat?", "Sue"),
    ("The crab lived in the sea.", "where", "Where did the crab live?", "in the sea"),
    (
        "A boy named Sam, who lived in a small house, was sad.",
        "where",
        "Where did Sam live?",
        "in a small house",
    ),
    (
        "There was an old lady who lived in a small house.",
        "where",
        "Where did the lady live?",
        "in a small house",
    ),
    (
        "Once upon a time, in a big lake, there was a brown kayak.",
        "where",
        "Where was there a brown kayak?",
        "in a big lake",
    ),
    ("Mia was walking in the woods.", "where", "Where was Mia walking?", "in the woods"),
    ("Tim went to the big park.", "where", "Where did Tim go?", "the big park"),
    (
        "Jack found a pill on the floor.",
        "where",
        "Where did Jack find a pill?",
        "on the floor",
    ),
    ("She saw a blue kite.", "colour", "What color was the kite?", "blue"),
    ("He had white shoes.", "colour", "What color were the shoes?", "white"),
]
# Passages whose question has more than one answer, or whose words give the answer away.
AMBIGUOUS = [
    ("There was a girl named Lily. A girl named Sue came.", "Who is the girl?"),
    ("There was a girl named Lily. Another little girl came.", "Who is the girl?"),
    ("A girl named Lily saw two girls.", "Who is the girl?"),
    ("Lily wanted to run. Tim wanted to run.", "Who wanted to run?"),
    ("Lily wanted to run. Tim did too.", "Who wanted to run?"),
    ("Lily liked to run. The dog loved to run.", "Who liked to run?"),
    ("The crab lived in the sea. Before, it lived in a box.", "Where did the crab live?"),
    ("Tim went to the park. He ran to the shop.", "Where did Tim go?"),
    ("Mia was sitting on the grass in the park.", "Where was Mia sitting?"),
    ("In the park, Jack found a pill on the floor.", "Where did Jack find a pill?"),
    ("She saw a blue kite. It was a red kite.", "What color was the kite?"),
    ("She saw a blue kite and another kite.", "What color was the kite?"),
    ("She saw a blue kite. Then the kite was red.", "What color was the kite?"),
    ("She saw a blue and yellow kite.", "What color was the kite?"),
    ("There was a car named Car.", "Who is the car?"),
]


def asked(passage):
    return {(one.kind, *one.question[1:]) for one in questions(passage)}


@pytest.mark.parametrize(("passage", "kind", "prompt", "answer"), FOUND)
def test_a_rule_finds_its_question(passage, kind, prompt, answer):
    assert (kind, prompt, answer) in asked(passage)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.prompt)
def test_every_rule_finds_a_question(monkeypatch, rule):
    at = RULES.index(rule)
    monkeypatch.setattr(story_questions, "RULES", (rule,))
    monkeypatch.setattr(
        story_questions, "_STATEMENTS", story_questions._STATEMENTS[at : at + 1]
    )
    assert any(questions(passage) for passage, *_ in FOUND)


@pytest.mark.parametrize(("passage", "prompt"), AMBIGUOUS)
def test_a_question_without_one_right_answer_is_left_out(passage, prompt):
    assert prompt not in {one[1] for one in asked(passage)}


def test_two_statements_with_other_answers_are_no_question(monkeypatch):
    rules = tuple(rule._replace(others="(?!)") for rule in RULES)
    monkeypatch.setattr(story_questions, "RULES", rules)
    said = "Lily wanted to run. Tim wanted to {}."
    assert len(asked(said.format("sing"))) == 2
    assert not asked(said.format("run"))


def test_a_color_may_be_said_twice():
    passage = "There was a blue kite. The blue kite was new. The kite flew."
    assert asked(passage) == {("colour", "What color was the kite?", "blue")}


NAMES, NOUNS, THINGS = ("Lily", "Tim", "Max"), ("girl", "dog"), ("ball", "kite")
COLOURS, PLACES = ("red", "blue", "green"), ("park", "garden", "river")
UNKNOWN = "some other answer"


def sentence(rng):
    """A random sentence, and the answers that it gives to questions."""
    name, noun, thing, colour, place = map(
        rng.choice, (NAMES, NOUNS, THINGS, COLOURS, PLACES)
    )
    what, color = f"a {colour} {thing}", f"What color was the {thing}?"
    said = [
        (f"There was a little {noun} named {name}.", {f"Who is the {noun}?": name}),
        (
            f"{name} found {what} in the {place}.",
            {
                color: colour,
                f"Who found {what}?": name,
                f"Where did {name} find {what}?": f"in the {place}",
            },
        ),
        (f"{name} wanted to run.", {"Who wanted to run?": name}),
        (
            f"{name} wanted {what}.",
            {f"Who wanted {what}?": name, color: colour},
        ),
        (
            f"{name} went to the {place}.",
            {f"Where did {name} go?": f"the {place}"},
        ),
        (
            f"{name} was walking in the {place}.",
            {f"Where was {name} walking?": f"in the {place}"},
        ),
        (f"{name} lived in a {place}.", {f"Where did {name} live?": f"in a {place}"}),
        (f"Then there was another {thing}.", {color: UNKNOWN}),
        (f"A {noun} came home.", {f"Who is the {noun}?": UNKNOWN}),
        ("They wanted to run too.", {"Who wanted to run?": UNKNOWN}),
        ("It was a sunny day.", {}),
    ]
    return said[rng.integers(len(said))]


def test_answers_are_those_of_the_sentences_that_a_passage_was_made_of():
    kinds, ambiguous = set(), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        said = [sentence(rng) for _ in range(rng.integers(1, 7))]
        passage = " ".join(text for text, _ in said)
        right = {}
        for _, answers in said:
            for prompt, answer in answers.items():
                right.setdefault(prompt, set()).add(answer)
        found = questions(passage)
        for kind, (context, prompt, answer) in found:
            assert right[prompt] == {answer}, passage
            assert context == passage and answer in passage
            assert answer.split()[-1] not in prompt
            kinds.add(kind)
        prompts = [one.question.prompt for one in found]
        assert len(set(prompts)) == len(prompts)
        ambiguous += sum(len(answers) > 1 for answers in right.values())
    assert kinds == set(KINDS) and ambiguous > 100  # the claims above were put to the test


def test_stories_begin_at_their_opening():
    one, two = "Once upon a time, there was a cat.", "Once there was a dog. It ran."
    assert stories(f"{one}\n\n{two}") == [one, two]
    assert stories(f'"Hi!" {one}  "Once upon a time," he said.') == [
        '"Hi!"',
        f'{one} "Once upon a time," he said.',
    ]
    assert stories(" \n") == []


def test_passages_are_whole_sentences_of_so_many_words():
    story = 'One two. Three four five. "Six!" Seven eight nine ten eleven. Twelve.'
    assert list(passages(story, 5)) == [
        "One two. Three four five.",
        '"Six!"',
        "Seven eight nine ten eleven.",
        "Twelve.",
    ]
    # A sentence that is too long is left out.
    assert list(passages(story, 4))[1:] == ['Three four five. "Six!"', "Twelve."]
    assert " ".join(passages(story, 6)) == story
