"""Files that name the same weights otherwise: with a prefix more or less, or in company."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from memcomp.convert.names import Renamed
from memcomp.errors import InputError
from memcomp.lm.load import load_lm

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
VISION = {
    "vision_tower.vision_model.embeddings.patch_embedding.weight": (3, 2),
    "multi_modal_projector.mm_input_projection_weight": (2, 2),
}


def rewrite(case, folder, rename, extra=(), config=lambda entries: entries):
    """The case's checkpoint in `folder`, under other names and with other tensors."""
    tensors = safetensors.numpy.load_file(GOLDEN / case / "model.safetensors")
    tensors = {rename(name): tensor for name, tensor in tensors.items()}
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in dict(extra).items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    entries = json.loads((GOLDEN / case / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config(entries)))


def same_weights(case, folder):
    jax.tree.map(
        np.testing.assert_array_equal,
        load_lm(str(folder)).params,
        load_lm(str(GOLDEN / case)).params,
    )


def beside_vision(entries):
    return {"model_type": "gemma3", "text_config": entries, "vision_config": {}}


@pytest.mark.parametrize(
    "rename, prefix",
    [
        # As on the Hub, and as the modules are nested in transformers 5.
        (lambda name: f"language_model.{name}", ""),
        (lambda name: name.replace("model.", "model.language_model.", 1), "model."),
    ],
)
def test_the_text_part_of_gemma3_loads_from_beside_its_vision_tower(
    rename, prefix, tmp_path
):
    extra = {prefix + name: shape for name, shape in VISION.items()}
    rewrite("gemma3", tmp_path, rename, extra, beside_vision)
    same_weights("gemma3", tmp_path)


@pytest.mark.parametrize(
    "case, old, new",
    [
        ("gpt2", "transformer.", ""),
        ("gpt_neo", "transformer.", ""),
        ("opt", "model.decoder.", "decoder."),
        ("mamba", "backbone.embeddings.", "backbone.embedding."),
    ],
)
def test_older_names_load(case, old, new, tmp_path):
    rewrite(case, tmp_path, lambda name: name.replace(old, new, 1))
    same_weights(case, tmp_path)


@pytest.mark.parametrize(
    "case, attention", [("gpt2", "attn."), ("gpt_neo", "attn.attention.")]
)
def test_masks_that_old_files_store_are_not_read(case, attention, tmp_path):
    masks = {"bias": (1, 1, 64, 64), "masked_bias": ()}
    extra = {
        f"h.{i}.{attention}{name}": shape for i in range(2) for name, shape in masks.items()
    }
    rewrite(case, tmp_path, lambda name: name.replace("transformer.", "", 1), extra)
    same_weights(case, tmp_path)
    extra = {"h.0.attn.c_attn.masked_bias": ()}
    rewrite(case, tmp_path, lambda name: name, extra)
    with pytest.raises(InputError, match="not a weight of this model: transformer.h.0"):
        load_lm(str(tmp_path))


class Held(dict):
    def shapes(self):
        return {name: tensor.shape for name, tensor in self.items()}

    def read(self, name):
        return self[name]


def test_two_names_that_become_one_are_refused():
    held = Held({"wte": np.zeros(1), "model.wte": np.zeros(1)})
    with pytest.raises(InputError, match="wte twice: wte and model.wte"):
        Renamed(held, ((r"^model\.", ""),)).shapes()
