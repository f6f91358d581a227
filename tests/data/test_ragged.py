import numpy as np
import pytest
from etils import epath
from transformers import AutoTokenizer

from memcomp.data.ragged import Ragged, cached_ragged, tokenized
from memcomp.data.sources import BUILTIN
from memcomp.errors import InputError

SEQUENCES = [[5, 6, 7], [], [1], list(range(100, 140)), []]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUILTIN.parent)


def test_sequences_come_back():
    ragged = Ragged.of(SEQUENCES)
    assert [sequence.tolist() for sequence in ragged] == SEQUENCES
    assert len(ragged) == 5 and ragged.lengths.tolist() == [3, 0, 1, 40, 0]


@pytest.mark.parametrize("width", [0, 1, 4, 50])
@pytest.mark.parametrize("sequences", [SEQUENCES, [[], []]])
def test_padded_rows_are_slices(width, sequences):
    rng = np.random.default_rng(0)
    rows, skip, limit = rng.integers([[len(sequences)], [6], [9]], size=(3, 64))
    got = Ragged.of(sequences).padded(rows, width, skip=skip, limit=limit)
    assert got.tokens.dtype == got.lengths.dtype == np.int32
    assert got.tokens.shape == (64, width)
    for i in range(64):
        want = sequences[rows[i]][skip[i] :][: min(limit[i], width)]
        assert got.lengths[i] == len(want)
        assert got.tokens[i].tolist() == want + [0] * (width - len(want))


def test_texts_are_tokenized_as_one_by_one(tokenizer):
    rows = [(f"Row {i} says", "aye! " * (i % 7) + "no") for i in range(600)]
    got = list(tokenized(tokenizer, iter(rows)))
    want = [tuple(tokenizer(text)["input_ids"] for text in row) for row in rows]
    assert [tuple(map(list, row)) for row in got] == want


def test_a_special_token_in_a_text_is_text(tokenizer):
    text = f"one {tokenizer.eos_token} two"
    [[ids]] = tokenized(tokenizer, [(text,)])
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == text
    # As the tokenizer is shared, it is left as it was.
    assert tokenizer.eos_token_id in tokenizer(text)["input_ids"]


def test_special_tokens_are_added_where_they_are_wanted(tokenizer):
    seen = []

    def spy(texts, **options):
        seen.append(options["add_special_tokens"])
        return tokenizer(texts, **options)

    for wanted in (False, True):
        list(tokenized(spy, [("one",)], special_tokens=wanted))
    assert seen == [False, True]
    with pytest.raises(InputError, match="no tokenizer"):
        list(tokenized(None, [("one",)]))


def test_columns_are_made_once_and_mapped(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return ((sequence, sequence[:1]) for sequence in SEQUENCES)

    folder = epath.Path(tmp_path / "tokens")
    folder.mkdir()
    # What a killed process leaves is not taken for the whole.
    (folder / "whole.tokens").write_bytes(b"torn" * 1000)
    (folder / "starts.npy.partial").write_bytes(b"torn")
    for _ in range(2):
        whole, first = cached_ragged(folder, ("whole", "first"), make)
        assert isinstance(whole.tokens, np.memmap)
        assert [s.tolist() for s in whole] == SEQUENCES
        assert [s.tolist() for s in first] == [s[:1] for s in SEQUENCES]
    assert calls == [1]
    names = {path.name for path in folder.iterdir()}
    assert names == {"starts.npy", "whole.tokens", "first.tokens"}


def test_no_rows_are_no_sequences(tmp_path):
    [ragged] = cached_ragged(epath.Path(tmp_path), ("text",), lambda: [])
    assert len(ragged) == 0 and list(ragged) == []
