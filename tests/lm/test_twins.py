"""Tokens with equal output vectors: of each group, greedy decoding gives the lowest id."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.data.texts import Text
from memcomp.lm.twins import COLUMNS, never_decoded
from memcomp.runs.inputs import note_never_decoded


@pytest.fixture
def twins(tiny_lm):
    """Ids 3, 7 and 20 are one group, 5 and 9 another; 11 differs from 4 in one number."""
    rows = np.array(tiny_lm.params["head"])
    rows[[7, 20]], rows[9], rows[11] = rows[3], rows[5], rows[4]
    rows[11, -1] += 1
    assert rows.shape[1] > COLUMNS
    return dataclasses.replace(tiny_lm, params=tiny_lm.params | {"head": jnp.asarray(rows)})


def test_all_but_the_first_of_a_group_are_never_decoded(tiny_lm, twins):
    assert never_decoded(tiny_lm).tolist() == []
    assert never_decoded(twins).tolist() == [7, 9, 20]
    logits = np.asarray(twins.logits(np.arange(23)[None])).reshape(-1, 23)
    assert not np.isin(logits.argmax(-1), [7, 9, 20]).any()
    np.testing.assert_array_equal(logits[:, 7], logits[:, 3])


def test_texts_that_cannot_come_back_are_said(twins):
    said = []
    tokens = np.array([[1, 3, 5], [2, 9, 1]], np.int32)
    texts = [Text(i, "test", of_text) for i, of_text in enumerate(tokens)]
    note_never_decoded(twins, texts[:1], 0, said.append)
    note_never_decoded(twins, texts, 2, said.append)  # the decoder is given 2, 9
    assert not said
    note_never_decoded(twins, texts, 0, said.append)
    (line,) = said
    assert (
        line.startswith("1 of 2 texts cannot come back whole")
        and " 9, which no memory" in line
    )
