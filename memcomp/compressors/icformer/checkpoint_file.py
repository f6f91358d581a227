"""The authors' checkpoints: model.safetensors or pytorch_model.bin, and param.pt beside it.

param.pt holds the initial digests and the vectors AE and FT. Nothing in a checkpoint says
which LM it is for; only the width of the LM can be checked.

Source: github.com/wonderful9462/IC-Former, `Trainer.save`; files at
  huggingface.co/wonderful9462/IC-Former.
"""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.convert.engine import CONSTANTS, Params, Row, Tensors, from_hf
from memcomp.convert.files import Checkpoint, read_json
from memcomp.convert.pickled import open_pickle
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM

BESIDE = "param.pt"
_LAYER = "encoder.layers.{i}."
_ATTN = _LAYER + "cross_attn."
_MLP = _LAYER + "mlp."
# fmt: off
IN_BESIDE = (
    Row("digest_embeddings", "compressor/digests", "1 m d -> m d"),
    Row("AE", "ae", "1 1 d -> d"),
    Row("FT", "ft", "1 1 d -> d"),
)
IN_LAYER = (
    Row(_LAYER + "cross_input_layernorm.weight", "cross_attn/norm/scale", "d -> d"),
    Row(_LAYER + "context_layernorm.weight", "cross_attn/context_norm/scale", "d -> d"),
    Row(_ATTN + "q_proj.weight", "cross_attn/q/kernel", "(n h) d -> d n h"),
    Row(_ATTN + "k_proj.weight", "cross_attn/k/kernel", "(k h) d -> d k h"),
    Row(_ATTN + "v_proj.weight", "cross_attn/v/kernel", "(k h) d -> d k h"),
    Row(_ATTN + "o_proj.weight", "cross_attn/out/kernel", "d (n h) -> n h d"),
    Row(_LAYER + "post_attention_layernorm.weight", "mlp_norm/scale", "d -> d"),
    Row(_MLP + "gate_proj.weight", "mlp/gate/kernel", "f d -> d f"),
    Row(_MLP + "up_proj.weight", "mlp/up/kernel", "f d -> d f"),
    Row(_MLP + "down_proj.weight", "mlp/down/kernel", "d f -> f d"),
)
# fmt: on
# Options of the published code that we do not have, and the value that we implement.
FIXED = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "cross_attention_frequency": 1,
}


def table(num_layers: int) -> tuple[Row, ...]:
    """Returns the conversion table, one entry per tensor; no layers are stacked."""
    of_layers = (
        Row(row.hf.format(i=i), f"compressor/layers_{i}/{row.ours}", row.axes)
        for i in range(num_layers)
        for row in IN_LAYER
    )
    final_norm = Row("encoder.norm.weight", "compressor/final_norm/scale", "d -> d")
    return (*IN_BESIDE, *of_layers, final_norm)


def load_published(folder: pathlib.Path, lm_module: CausalLM) -> tuple[ICFormer, Params]:
    """Loads an IC-Former that its authors saved.

    Args:
      folder: folder with config.json, the weights and param.pt, which needs torch.
      lm_module: Flax module of the LM that it is for.

    Returns:
      The compressor, and its parameters in float32 as training uses them: its weights as
      `compressor`, and the vectors `ae` and `ft` [D] if the files have them.

    Raises:
      InputError: files are missing, damaged, do not fit each other, or have an option that
        `DigestEncoder` does not have; or the LM has another width.
    """
    tensors = _Files(folder)
    config = config_from_published(read_json(folder / "config.json"), str(folder))
    width = tensors.shapes()["digest_embeddings"][-1]
    if width != lm_module.config.d_model:
        raise InputError(
            f"{folder} is for an LM of width {width}, not of {lm_module.config.d_model}; "
            "give the LM that it was trained with"
        )
    compressor = ICFormer(lm_module, config)
    return compressor, params_from_published(tensors, compressor)


def params_from_published(tensors: Tensors, compressor: ICFormer) -> Params:
    """Converts the authors' tensors, of the weights and of param.pt, to our parameters."""
    return from_hf(
        tensors,
        table(compressor.config.num_layers),
        _sizes(compressor),
        _expected(compressor, tensors.shapes()),
        dtype=np.float32,
        ignored=(r".*\.rotary_emb\.inv_freq",),
        place=lambda path, array: jax.device_put(array),
    )


def config_from_published(entries: Mapping[str, Any], name: str) -> ICFormerConfig:
    """Makes our config from the authors' config.json, which errors call `name`."""
    for key, value in FIXED.items():
        if entries.get(key, value) != value:
            raise InputError(
                f"{name} has {key} {entries[key]!r}; memcomp reads such checkpoints only "
                f"with {value!r}"
            )
    try:
        width, num_heads = entries["hidden_size"], entries["num_attention_heads"]
        if entries.get("context_hidden_size", width) != width:
            raise InputError(f"{name} reads contexts of another width than its digests'")
        if width % num_heads:
            raise InputError(
                f"config.json of {name} has {num_heads} heads, which do not divide the "
                f"width of {width}; get it again"
            )
        return ICFormerConfig(
            num_digests=entries["num_query_tokens"],
            num_layers=entries["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=entries.get("num_key_value_heads") or num_heads,
            head_dim=width // num_heads,
            d_mlp=entries["intermediate_size"],
            rope_theta=entries["rope_theta"],
            norm_eps=entries["rms_norm_eps"],
        )
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"config.json of {name} lacks sizes of an IC-Former ({error}); get it again"
        ) from error


class _Files(Checkpoint):
    """The tensors of the weights file and of param.pt together."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        path = folder / BESIDE
        if not path.is_file():
            raise InputError(
                f"{folder} has no {BESIDE}, where the initial digests are; get it too"
            )
        if importlib.util.find_spec("torch") is None:
            raise InputError(f"{BESIDE} in {folder} takes torch to read; install torch")
        beside = open_pickle(path)
        if "digest_embeddings" not in beside:
            raise InputError(f"{path} has no digest_embeddings; get it again")
        self._tensors |= {name: (path, tensor) for name, tensor in beside.items()}


def _sizes(compressor: ICFormer) -> dict[str, int]:
    sizes = compressor.config.sizes(compressor.lm_module.config)
    return {
        **CONSTANTS,
        "layers": 0,  # no layers are stacked
        "m": compressor.num_digests,
        "d": sizes.d_model,
        "f": sizes.d_mlp,
        "n": sizes.num_heads,
        "k": sizes.num_kv_heads,
        "h": sizes.head_dim,
    }


def _expected(compressor: ICFormer, shapes: Mapping[str, Any]) -> Params:
    """Shapes of the result: all weights, and those of AE and FT that the files have."""
    weights = nn.unbox(jax.eval_shape(compressor.init, jax.random.key(0)))
    vector = jax.ShapeDtypeStruct((compressor.lm_module.config.d_model,), np.float32)
    vectors = {row.ours: vector for row in IN_BESIDE[1:] if row.hf in shapes}
    return {"compressor": weights, **vectors}
