"""Text to ids and back, for tokenizers that mark spaces, cut characters or lose them."""

import numpy as np
import pytest
import tokenizers
from lossy_tokenizers import CORPUS, losing, marking_spaces

from memcomp.data.texts import tokenize
from memcomp.data.tokens import (
    ids_to_text,
    num_bytes,
    num_faithful,
    pieces,
    text_to_ids,
)
from memcomp.errors import InputError
from memcomp.lm.load import load_lm

EMOJI = "the \N{GRINNING FACE} rain \u65e5\u672c had"
CONTROL = "He typed <|endoftext|> and left</s> the<unk> room"


@pytest.fixture(scope="module")
def bytes_only():
    return load_lm("builtin").tokenizer


@pytest.fixture(params=["bytes", "marks"])
def tokenizer(request, bytes_only):
    return bytes_only if request.param == "bytes" else marking_spaces()


@pytest.mark.parametrize("text", [EMOJI, CONTROL, CORPUS])
def test_a_text_comes_back_with_control_strings_and_all(text, tokenizer):
    ids = text_to_ids(tokenizer, text)
    assert not np.isin(ids, tokenizer.all_special_ids).any()
    assert ids_to_text(tokenizer, ids) == text
    assert num_faithful(tokenizer, ids, text, whole=True) == len(ids)
    assert num_bytes(tokenizer, ids) == len(text.encode())


@pytest.mark.parametrize("text", [EMOJI, CONTROL])
def test_pieces_keep_spaces_and_whole_characters_and_join_to_the_text(text, tokenizer):
    ids = text_to_ids(tokenizer, text)
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids) and "".join(found) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in found)
    if text is EMOJI:
        assert "\N{GRINNING FACE}" in found and found.count("") >= 3


def test_bytes_of_a_character_that_is_cut_are_counted_one_by_one(tokenizer):
    ids = text_to_ids(tokenizer, EMOJI)
    sizes = [num_bytes(tokenizer, ids[:n]) for n in range(len(ids) + 1)]
    assert all(a <= b for a, b in zip(sizes, sizes[1:], strict=False))
    emoji = pieces(tokenizer, ids).index("\N{GRINNING FACE}")
    assert sizes[emoji - 2 : emoji + 2] == [5, 6, 7, 8]  # after "the " come four bytes
    assert num_faithful(tokenizer, ids[:emoji], EMOJI, whole=False) == emoji


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_tokens_up_to_what_is_lost_are_counted(unknown):
    tokenizer = losing(unknown)
    ids = text_to_ids(tokenizer, EMOJI)
    assert ids_to_text(tokenizer, ids) != EMOJI
    assert num_faithful(tokenizer, ids, EMOJI, whole=True) == 1  # "the"
    kept = text_to_ids(tokenizer, "the rain had")
    assert num_faithful(tokenizer, kept, "the rain had", whole=True) == len(kept)
    # What is lost at the very end is lost as well, and no number of tokens is the text.
    lost = text_to_ids(tokenizer, "the rain \N{GRINNING FACE}")
    assert num_faithful(tokenizer, lost, "the rain \N{GRINNING FACE}", whole=True) < len(
        lost
    )


def test_a_text_says_whether_it_comes_back_from_its_tokens_and_from_fewer():
    tokenizer = losing("<unk>")
    good, bad = tokenize(tokenizer, ["the rain had", EMOJI], num_tokens=None)
    assert good.comes_back and not bad.comes_back
    assert bad.beginning(1).comes_back
    (cut,) = tokenize(tokenizer, [EMOJI], num_tokens=1)
    assert cut.comes_back
    (ids,) = tokenize(tokenizer, [np.array([5, 6])], num_tokens=None)
    assert ids.comes_back is None


def test_special_tokens_that_the_tokenizer_adds_are_no_loss():
    tokenizer = marking_spaces()
    template = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    (text,) = tokenize(tokenizer, [CONTROL], num_tokens=None, protocol="reference")
    assert text.tokens[0] == 1 and text.comes_back


def test_a_text_of_which_nothing_is_left_is_refused():
    with pytest.raises(InputError, match="text 0 .* has no tokens"):
        tokenize(losing(None), ["\N{GRINNING FACE}"], num_tokens=None)


@pytest.mark.parametrize("text", ["a lone half \ud83d of a character"])
def test_a_text_that_no_tokenizer_reads_is_refused(text, bytes_only):
    with pytest.raises(InputError, match="a text that the tokenizer cannot read"):
        text_to_ids(bytes_only, text)
