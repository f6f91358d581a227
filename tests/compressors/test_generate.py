import jax
import numpy as np
import pytest
from flax import linen as nn

import memcomp
from memcomp.compressors.compress import own_tokens
from memcomp.compressors.objectives import Task
from memcomp.compressors.registry import make_compressor
from memcomp.compressors.training import init_params
from memcomp.errors import InputError

ENTRIES = {
    "icformer": dict(num_digests=3, num_layers=1, digest_init="normal"),
    "icae": dict(num_digests=3, rank=2),
    "gradmem": dict(num_digests=3),
}


@pytest.fixture(scope="module")
def lm():
    return memcomp.load_lm("builtin")


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("icae", "gradmem")]


@pytest.fixture(scope="module", params=["icformer", *SLOW])
def trained(request, lm):
    compressor = make_compressor(request.param, lm.module, ENTRIES[request.param])
    params = nn.unbox(init_params(jax.random.key(0), Task(lm.module, compressor)))
    return memcomp.TrainedCompressor(compressor, params, lm.name, lm.fingerprint)


def test_texts_are_compressed_saved_and_asked_about(lm, trained, tmp_path):
    memcomp.save_compressor(tmp_path / "c.safetensors", trained)
    loaded = memcomp.load_compressor(tmp_path / "c.safetensors", lm)
    assert loaded.compressor == trained.compressor
    contexts = ["The king rode out at dawn.", "It rained all day, and the river rose."]
    lengths = [len(lm.tokenizer(text)["input_ids"]) for text in contexts]
    assert lengths == sorted(lengths)
    prompts = memcomp.compress(lm, loaded, contexts, max_chunk=lengths[0], batch_size=4)
    assert prompts.counts.tolist() == [3, 6]
    memcomp.save_soft_prompts(tmp_path / "p.safetensors", prompts)
    prompts = memcomp.load_soft_prompts(tmp_path / "p.safetensors", lm)
    said = {
        ask: memcomp.generate(lm, prompts, ask, num_tokens=4, template="plain")
        for ask in ("reproduce", "continue", "Who rode out?")
    }
    for answers in said.values():
        assert len(answers) == 2
    # What is asked changes what is read: AE is a vector of zeros, and counts.
    assert len({tuple(answers) for answers in said.values()}) > 1


def test_what_looks_like_a_special_token_in_a_context_is_text(lm):
    ids = own_tokens(lm, f"The{lm.tokenizer.eos_token}king")
    assert lm.tokenizer.eos_token_id not in ids
    assert lm.tokenizer.decode(ids) == f"The{lm.tokenizer.eos_token}king"


def test_compressors_that_are_not_there_are_refused(lm):
    with pytest.raises(InputError, match="'gist' is not one of icformer, icae"):
        make_compressor("gist", lm.module, {})
    with pytest.raises(InputError, match="ICFormerConfig has no field 'num_layer'"):
        make_compressor("icformer", lm.module, {"num_layer": 3})


def test_an_lm_without_a_tokenizer_gives_ids_only(tiny_lm):
    empty = np.zeros((1, 1, 16), np.float32)
    prompts = memcomp.SoftPrompts(
        empty, np.ones(1, int), empty[0], "tiny", tiny_lm.fingerprint
    )
    with pytest.raises(InputError, match="use decode_rows"):
        memcomp.generate(tiny_lm, prompts)
