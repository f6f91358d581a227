"""The words around a context and a question about it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from memcomp.compressors.layout import Question
from memcomp.errors import InputError

INSTRUCTION = "Response the Prompt based on the below text:\n\n"  # as published
_MARK = "\x00"  # no template has it


@dataclasses.dataclass(frozen=True)
class Template:
    """What comes before the context, around the prompt, and before the answer.

    Pieces are made tokens separately, as in the authors' code, so that tokens do not
    depend on their neighbours.

    Attributes:
      before: tokens before the context.
      prompt: how a prompt is written, with {prompt} in it.
      end: tokens between the prompt and the answer.
    """

    before: tuple[int, ...]
    prompt: str
    end: tuple[int, ...]

    def written(self, prompt: str) -> str:
        """The text that is made the prompt's tokens."""
        return self.prompt.replace("{prompt}", prompt)

    def question(
        self, prompt: Int[np.ndarray, "_"], answer: Int[np.ndarray, "_"]
    ) -> Question:
        """A question, from the tokens of a prompt as it is `written`."""
        after = np.concatenate([prompt, np.asarray(self.end, np.int32)])
        return Question(np.asarray(self.before, np.int32), after, answer)


def make_template(name: str, tokenizer: Any) -> Template:
    """A template for the tokenizer of an LM.

    Args:
      name: "published": Llama-2's, as in arXiv:2406.13618, whatever the LM; "chat": the
        tokenizer's own chat template, with the same instruction; "plain": neither.
      tokenizer: of transformers.

    Raises:
      InputError: no such template, or a tokenizer without a chat template.
    """
    if name not in TEMPLATES:
        raise InputError(f"template {name!r} is not one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name](tokenizer)


def _published(tokenizer: Any) -> Template:
    """<s>[INST] instruction, the context, "Prompt: ", the prompt, [/INST].

    Source: the authors' code, modules.py:386-439.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = bos + _tokens(tokenizer, f"[INST] {INSTRUCTION}")
    return Template(
        tuple(before), "\n\nPrompt: {prompt}", tuple(_tokens(tokenizer, "[/INST]"))
    )


def _plain(tokenizer: Any) -> Template:
    """The same without marks of turns, for an LM that knows none."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = bos + _tokens(tokenizer, INSTRUCTION)
    return Template(
        tuple(before), "\n\nPrompt: {prompt}", tuple(_tokens(tokenizer, "\n\nAnswer:"))
    )


def _chat(tokenizer: Any) -> Template:
    """One turn of the user, and the beginning of the answer."""
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
    return Template(
        tuple(_tokens(tokenizer, before)),
        "\n\nPrompt: {prompt}",
        tuple(_tokens(tokenizer, end)),
    )


def _tokens(tokenizer: Any, text: str) -> list[int]:
    # Special tokens in a template are meant; the tokenizer adds none of its own.
    return tokenizer(text, add_special_tokens=False)["input_ids"]


TEMPLATES: dict[str, Callable[[Any], Template]] = {
    "published": _published,
    "plain": _plain,
    "chat": _chat,
}
