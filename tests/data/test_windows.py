import numpy as np
import pytest
import tokenizers
from etils import epath

from memcomp.data.windows import cached_tokens, flat_tokens, window_starts, windows
from memcomp.errors import InputError

TOKENS = np.arange(1000, dtype=np.uint16)


def batches(**changes):
    given = dict(length=16, batch_size=4, num_batches=40, seed=3) | changes
    return windows(TOKENS, **given)


@pytest.fixture
def words():
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2, "<": 3, "|": 4, ">": 5, "endoftext": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="b"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Whitespace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def test_every_document_begins_with_the_start_token(words):
    tokens = flat_tokens(["a b", "", "b"] * 20, words, 0)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [0, 1, 2, 0, 0, 2] * 20


def test_a_special_token_in_a_text_is_text(words):
    tokens = flat_tokens(["a <|endoftext|> b"], words, 0)
    assert tokens.tolist() == [0, 1, 3, 4, 6, 4, 5, 2]


def test_no_documents_are_no_tokens(words):
    assert flat_tokens([], words, 0).shape == (0,)


def test_tokens_are_made_once_and_mapped(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return TOKENS

    path = epath.Path(tmp_path / "tokens.npy")
    # What a killed process leaves is not taken for the whole.
    path.with_name("tokens.npy.partial").write_bytes(b"torn")
    first, second = cached_tokens(path, make), cached_tokens(path, make)
    assert calls == [1]
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, TOKENS)
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.npy"]


def test_windows_are_slices_of_the_text():
    for batch in batches():
        assert batch.shape == (4, 17) and batch.dtype == np.uint16
        np.testing.assert_array_equal(batch - batch[:, :1], np.tile(np.arange(17), (4, 1)))


@pytest.mark.parametrize(
    ("num_tokens", "per_pass"), [(1000, 61), (33, 1), (17, 1), (49, 2)]
)
def test_in_one_pass_every_target_comes_once(num_tokens, per_pass):
    starts = window_starts(num_tokens, 16, 0)
    for number in range(20):
        taken = np.sort(starts(np.arange(number * per_pass, (number + 1) * per_pass)))
        assert (np.diff(taken) == 16).all()
        assert taken[0] >= 0 and taken[-1] + 16 < num_tokens


def test_passes_differ_in_order_and_offset():
    starts = window_starts(1000, 16, 0)
    passes = [starts(np.arange(p * 61, (p + 1) * 61)) for p in range(200)]
    assert {int(p.min()) for p in passes} == set(range(16))  # every offset
    assert not (np.sort(passes[0]) == passes[0]).all()
    assert len({tuple(p - p.min()) for p in passes}) == 200


def test_a_batch_may_span_passes():
    whole = window_starts(100, 16, 1)(np.arange(500))
    for first in (0, 3, 77):
        part = window_starts(100, 16, 1)(np.arange(first, first + 50))
        np.testing.assert_array_equal(part, whole[first : first + 50])


def test_order_depends_on_the_seed_alone():
    same, other = batches(), batches(seed=4)
    for i in (39, 0, 17):
        np.testing.assert_array_equal(same[i], batches()[i])
    assert any((same[i] != other[i]).any() for i in range(40))


def test_an_iterator_goes_on_from_its_saved_state():
    dataset = batches().batch(3).to_iter_dataset()
    whole = list(dataset)
    assert [len(chunk) for chunk in whole] == [3] * 13 + [1]
    iterator = iter(dataset)
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    again = iter(batches().batch(3).to_iter_dataset())
    again.set_state(state)
    for got, want in zip(again, whole[5:], strict=True):
        np.testing.assert_array_equal(got, want)


def test_bad_sizes_are_refused():
    with pytest.raises(InputError, match="1000 tokens, fewer than the 1001"):
        batches(length=1000)


def test_a_large_vocabulary_is_refused():
    vocab = {str(i): i for i in range(70_000)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="0"))
    with pytest.raises(InputError, match="70000 does not fit into 16 bits"):
        flat_tokens(["a"], tokenizer, 0)
