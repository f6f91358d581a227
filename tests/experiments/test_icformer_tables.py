import jax
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from icformer_run import import_script, make_folder, tiny

from memcomp.compressor.compress import TrainedCompressor
from memcomp.compressor.training import init_params
from memcomp.evaluation.scores import baselines


@pytest.fixture(scope="module")
def script():
    yield from import_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("icformer"))


@pytest.fixture(scope="module")
def made(script, folder):
    """A config, its parts, and a compressor with random weights."""
    config = tiny(folder, stage="evaluate", dtype="float32")
    parts = script.load_parts(config)
    params = nn.unbox(init_params(jax.random.key(0), parts.task))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape), params)
    lm = parts.lm
    trained = TrainedCompressor(parts.task.compressor, params, lm.name, lm.fingerprint)
    return config, parts, trained


def workdir(tmp_path):
    return epath.Path(tmp_path)


def test_gains_are_paired_and_of_the_text_alone(script, made, tmp_path):
    config, parts, trained = made
    rows = dict(script.reconstructions(config, parts, trained, workdir(tmp_path)))
    tokens = script.held_out(config, parts, workdir(tmp_path), 12)
    bare = [text.astype(np.int32) for text in tokens]
    without = baselines(parts.lm, bare, num_given=0, pad_to=12, vocab_chunk=8192)
    for record, one in zip(rows["normal 12"](), without, strict=True):
        assert record["num_tokens"] == 12  # no EOS
        gain = one.loss_nats - record["nats_per_token"]
        assert record["gain_nats_per_token"] == pytest.approx(gain, abs=1e-5)
        later = 12 * record["nats_per_token"] - record["first_nats"]
        later = one.surprise_nats[1:].mean() - later / 11
        assert record["gain_nats_per_later_token"] == pytest.approx(later, abs=1e-5)
