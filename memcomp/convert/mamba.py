"""Mamba checkpoints in Hugging Face layout.

Older files name the embedding `embedding`, newer ones `embeddings`.
"""

from typing import Any

from memcomp.convert.engine import Family, Row
from memcomp.models.mamba import Mamba, MambaConfig

_LAYER = "backbone.layers.{i}."
_MIXER = _LAYER + "mixer."
_SSM = "layers/mixer/ssm/"
# fmt: off
TABLE = (
    Row("backbone.embeddings.weight", "embedding", "v d -> v d"),
    Row(_LAYER + "norm.weight", "layers/norm/scale", "d -> d"),
    Row(_MIXER + "in_proj.weight", "layers/mixer/in/kernel", "(g e) d -> d g e"),
    Row(_MIXER + "in_proj.bias", "layers/mixer/in/bias", "(g e) -> g e"),
    Row(_MIXER + "conv1d.weight", "layers/mixer/conv/kernel", "e 1 w -> w e"),
    Row(_MIXER + "conv1d.bias", "layers/mixer/conv/bias", "e -> e"),
    Row(_MIXER + "x_proj.weight", _SSM + "selection/kernel", "s e -> e s"),
    Row(_MIXER + "dt_proj.weight", _SSM + "dt/kernel", "e r -> r e"),
    Row(_MIXER + "dt_proj.bias", _SSM + "dt_bias", "e -> e"),
    Row(_MIXER + "A_log", _SSM + "log_rates", "e z -> z e"),
    Row(_MIXER + "D", _SSM + "skip", "e -> e"),
    Row(_MIXER + "out_proj.weight", "layers/mixer/out/kernel", "d e -> e d"),
    Row(_MIXER + "out_proj.bias", "layers/mixer/out/bias", "d -> d"),
    Row("backbone.norm_f.weight", "final_norm/scale", "d -> d"),
    Row("lm_head.weight", "head", "v d -> v d"),
)
# fmt: on
NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "d_inner": "intermediate_size",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "dt_rank": "time_step_rank",
    "activation": "hidden_act",
    "norm_eps": "layer_norm_epsilon",
    "use_bias": "use_bias",
    "use_conv_bias": "use_conv_bias",
    "residual_in_fp32": "residual_in_fp32",
    "tied_embeddings": "tie_word_embeddings",
}


def _write(config: MambaConfig) -> dict[str, Any]:
    return {
        "expand": config.d_inner // config.d_model
    }  # transformers prefers the inner size


FAMILY = Family(
    model=Mamba,
    config=MambaConfig,
    model_type="mamba",
    architecture="MambaForCausalLM",
    table=TABLE,
    names=NAMES,
    write=_write,
    renames=((r"^(backbone\.)?embedding\.", "backbone.embeddings."),),
    checkpoints=(
        "state-spaces/mamba-130m-hf",
        "state-spaces/mamba-370m-hf",
        "state-spaces/mamba-790m-hf",
        "state-spaces/mamba-1.4b-hf",
    ),
    special="no attention: convolution and selective scan, decoding with constant state",
)
