import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from memcomp.errors import InputError
from memcomp.studies.text_kinds import TEXT_KINDS, ordinary_ids, text_of_kind

IDS = np.array([1, 2, 3, 5, 6, 9])
TOKENS = np.array([3, 1, 9, 5, 1, 4])


def made(kind, text_id=0, tokens=TOKENS, ids=IDS):
    got = text_of_kind(kind, tokens, ids=ids, seed=7, text_id=text_id)
    assert got.dtype == np.int32 and got.shape == tokens.shape
    return got.tolist()


def test_each_kind_is_what_it_says():
    assert made("normal") == [3, 1, 9, 5, 1, 4]
    assert made("reversed") == [4, 1, 5, 9, 1, 3]
    # The next id that is text: 4 and 7 are none, and after 9 comes 1.
    assert made("patterned") == [5, 2, 1, 6, 2, 5]


def test_random_ids_are_uniform_and_of_each_text_its_own():
    many = np.zeros(6000, np.int32)
    drawn = made("random", tokens=many)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == IDS.tolist()
    assert abs(counts - 1000).max() < 5 * 29  # standard deviation 29
    assert drawn == made("random", tokens=many) != made("random", 1, many)


def test_the_four_kinds_of_the_papers_are_there():
    assert list(TEXT_KINDS) == ["normal", "reversed", "patterned", "random"]
    with pytest.raises(InputError, match="'noise'; give one of normal, reversed"):
        made("noise")


def test_special_tokens_and_padded_rows_are_no_text():
    vocab = {"<s>": 0, "a": 1, "b": 2, "<unused>": 3, "c": 4}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    backend.add_special_tokens([AddedToken("<unused>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert ordinary_ids(tokenizer, 64).tolist() == [1, 2, 4]
    assert ordinary_ids(None, 4).tolist() == [0, 1, 2, 3]
