"""The words around a context and a question about it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from memcomp.compressors.layout import Question
from memcomp.errors import InputError
from memcomp.ranges import check_choice

INSTRUCTION = "Response the Prompt based on the below text:\n\n"  # as published
_MARK = "\x00"  # stands for the context; no template contains it


@dataclasses.dataclass(frozen=True)
class Template:
    """Text before the context, around the prompt, and before the answer.

    Pieces are tokenized separately, as in the authors' code, so that their tokens do not
    depend on neighbouring pieces.

    Attributes:
      before: tokens before the context.
      end: tokens between the prompt and the answer.
    """

    before: tuple[int, ...]
    end: tuple[int, ...]

    def written(self, prompt: str) -> str:
        """Returns the text of a prompt, before it is tokenized."""
        return f"\n\nPrompt: {prompt}"

    def question(
        self, prompt: Int[np.ndarray, "_"], answer: Int[np.ndarray, "_"]
    ) -> Question:
        """Makes a question from the tokens of a prompt as it is `written`."""
        after = np.concatenate([prompt, np.asarray(self.end, np.int32)])
        return Question(np.asarray(self.before, np.int32), after, answer)


def make_template(name: str, tokenizer: Any) -> Template:
    """Makes a template for the tokenizer of an LM.

    Args:
      name: "published" for Llama-2's, as in arXiv:2406.13618, whatever the LM; "chat" for
        the tokenizer's own chat template, with the same instruction; "plain" for the same
        instruction without marks of turns.
      tokenizer: tokenizer from transformers.

    Raises:
      InputError: there is no such template, or the tokenizer has no chat template.
    """
    check_choice("template", name, TEMPLATES)
    return TEMPLATES[name](tokenizer)


def _plain(begin: str, end: str, tokenizer: Any) -> Template:
    """BOS, `begin`, the context, "Prompt: ", the prompt, `end`."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = bos + _tokens(tokenizer, begin)
    return Template(tuple(before), tuple(_tokens(tokenizer, end)))


def _chat(tokenizer: Any) -> Template:
    """One turn of the user, and the beginning of the answer, in the chat template."""
    if not tokenizer.chat_template:
        raise InputError(
            'the tokenizer has no chat template; give template="published" or "plain"'
        )
    turn = [{"role": "user", "content": INSTRUCTION + _MARK}]
    try:
        said = tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
    except ImportError as error:
        raise InputError(
            "the chat template of a tokenizer takes jinja2; install memcomp[compress]"
        ) from error
    before, _, end = said.partition(_MARK)
    return Template(*(tuple(_tokens(tokenizer, part)) for part in (before, end)))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    # Special tokens in a template are read as such; the tokenizer adds none of its own.
    return tokenizer(text, add_special_tokens=False)["input_ids"]


TEMPLATES: dict[str, Callable[[Any], Template]] = {
    # Source: the authors' code, modules.py:386-439.
    "published": functools.partial(_plain, f"[INST] {INSTRUCTION}", "[/INST]"),
    # The same without marks of turns, for an LM that does not know them.
    "plain": functools.partial(_plain, INSTRUCTION, "\n\nAnswer:"),
    "chat": _chat,
}
