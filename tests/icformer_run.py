"""A compressor's run on what takes seconds, for the tests of experiments/icformer.py."""

import importlib
import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn

from memcomp import pretrain
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.settings import settings_of
from memcomp.compressors.setup import Setup, make_task
from memcomp.compressors.training import init_params
from memcomp.lm.load import abstract_params, export_lm, load_lm
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.sharding import make_mesh

ROOT = pathlib.Path(__file__).parents[1]
SIZES = dict(vocab_size=280, num_layers=1, d_model=16, d_mlp=24, num_heads=2)
SIZES |= dict(num_kv_heads=1, head_dim=8, max_positions=128)
WORDS = "the cat saw a dog and the dog saw the cat but no rat was seen by them at all"


def import_script():
    """Yields experiments/icformer.py as a module, for a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("icformer")


def make_folder(folder):
    """An LM with random weights, documents, and questions about them."""
    module = Llama(LlamaConfig(**SIZES, rotary=Rotary(8), tied_embeddings=True))
    leaves, tree = jax.tree.flatten(nn.unbox(abstract_params(module)))
    rng = np.random.default_rng(0)
    params = [0.3 * rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
    export_lm(folder / "lm", module, jax.tree.unflatten(tree, params), eos_token_id=0)
    tokenizer = pretrain.train_tokenizer([WORDS] * 3, 280)
    pretrain.save_tokenizer(tokenizer, epath.Path(folder / "lm"), 128)
    texts = [" ".join(rng.choice(WORDS.split(), n)) for n in (30, 9, 60, 44)]
    write(folder / "train.jsonl", [{"text": text} for text in [*texts, texts[0]]])
    write(folder / "valid.jsonl", [{"text": text} for text in texts[::-1]])
    rows = [
        {"input": text, "prompt": f"Who saw the {word}?", "answer": f"The {word}."}
        for text in texts
        for word in ("cat", "dog", "rat", "mouse", "cow")
    ]
    write(folder / "PwC_train.jsonl", rows)
    write(folder / "PwC_test.jsonl", rows[:3])
    return folder


def setup_of(config):
    """What experiments/icformer.py makes of a config."""
    settings = settings_of(config.to_dict())
    lm = load_lm(config.lm, dtype=config.dtype, mesh=make_mesh(**config.mesh))
    return Setup(settings, lm, make_task(settings, lm.module))


def with_random_weights(setup):
    """The compressor of a `Setup`, as if it were trained."""
    params = nn.unbox(init_params(jax.random.key(0), setup.task))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.standard_normal(x.shape), jnp.float32), params
    )
    lm = setup.lm
    return TrainedCompressor(setup.task.compressor, params, lm.name, lm.fingerprint)


def write(path, rows):
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny(folder, **changes):
    """The config of a run on what `make_folder` made."""
    config = runpy.run_path(str(ROOT / "configs/icformer/tiny.py"))["get_config"]()
    config.lm = str(folder / "lm")
    config.texts, config.valid = (str(folder / f"{n}.jsonl") for n in ("train", "valid"))
    config.manual_dir = str(folder)
    config.icformer.update(num_digests=2, num_layers=1)
    config.icae.update(num_digests=2, rank=2)
    config.pooling.update(num_digests=2)
    config.gradmem.update(num_digests=2)
    config.context.update(length=12, max_chunk=6)
    config.objective.update(continuation=8, continuation_ratio=0.5)
    config.question.update(template="plain", prompt=48, answer=12)
    config.train.update(num_steps=6, batch_size=16, accumulation=2)
    config.update(log_every=1, save_every=2, evaluate_every=3, num_valid=8)
    config.decode.update(num_texts=2, num_tokens=3)
    config.evaluate.update(lengths=(4, 12), num_texts=2, kinds=("normal", "random"))
    config.update_from_flattened_dict(changes)
    return config
