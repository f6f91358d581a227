import copy

import numpy as np
import pytest

from memcomp.compressors.layout import answer_row
from memcomp.compressors.templates import make_template
from memcomp.errors import InputError
from memcomp.lm.load import load_lm


@pytest.fixture(scope="module")
def tokenizer():
    return load_lm("builtin").tokenizer


def spoken(tokenizer, template):
    """A whole row as text, with <D> where the vectors stand."""
    ids = lambda text: np.asarray(tokenizer(text)["input_ids"], np.int32)  # noqa: E731
    question = template.question(ids(template.written("Who was it?")), ids(" A king."))
    row = answer_row(question, 1, None)
    (where,) = np.nonzero(row.slots >= 0)
    before, after = row.tokens[: where[0]], row.tokens[where[-1] + 1 :]
    return f"{tokenizer.decode(before)}<D>{tokenizer.decode(after)}"


INSTRUCTION = "Response the Prompt based on the below text:\n\n"


def test_the_published_template(tokenizer):
    assert spoken(tokenizer, make_template("published", tokenizer)) == (
        f"<|endoftext|>[INST] {INSTRUCTION}<D>\n\nPrompt: Who was it?[/INST] A king."
    )


def test_the_template_of_the_tokenizer(tokenizer):
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert spoken(tokenizer, make_template("chat", tokenizer)) == (
        f"<|user|>{INSTRUCTION}<D>\n\nPrompt: Who was it?<|end|><|assistant|> A king."
    )


def test_braces_in_a_prompt_are_text(tokenizer):
    template = make_template("plain", tokenizer)
    assert template.written("{x} {prompt}") == "\n\nPrompt: {x} {prompt}"


def test_templates_that_are_not_there_are_refused(tokenizer):
    with pytest.raises(InputError, match="'poem' is not one of published, plain, chat"):
        make_template("poem", tokenizer)
    with pytest.raises(InputError, match="no chat template"):
        make_template("chat", tokenizer)


def test_a_chat_template_without_jinja2_is_one_sentence(tokenizer, monkeypatch):
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = "{{ messages }}"

    def missing(*arguments, **options):
        raise ImportError("jinja2")

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", missing)
    with pytest.raises(InputError, match=r"takes jinja2; install memcomp\[compress\]"):
        make_template("chat", tokenizer)
