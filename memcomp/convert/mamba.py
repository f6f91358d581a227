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


def ignored(config: MambaConfig) -> tuple[str, ...]:
    """Names that are not read: a tied head."""
    return (r"lm_head\.weight",) if config.tied_embeddings else ()


def config_from_hf(hf: Any) -> MambaConfig:
    """Our config from a `transformers.MambaConfig`."""
    return MambaConfig(
        vocab_size=hf.vocab_size,
        num_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        d_inner=hf.intermediate_size,
        d_state=hf.state_size,
        d_conv=hf.conv_kernel,
        dt_rank=hf.time_step_rank,
        activation=hf.hidden_act,
        norm_eps=hf.layer_norm_epsilon,
        use_bias=hf.use_bias,
        use_conv_bias=hf.use_conv_bias,
        residual_in_fp32=hf.residual_in_fp32,
        tied_embeddings=hf.tie_word_embeddings,
    )


def config_to_hf(config: MambaConfig) -> dict[str, Any]:
    """Makes the entries of config.json; the inverse of `config_from_hf`."""
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_act": config.activation,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "expand": config.d_inner // config.d_model,
        "intermediate_size": config.d_inner,  # transformers prefers it to `expand`
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "time_step_rank": config.dt_rank,
        "layer_norm_epsilon": config.norm_eps,
        "use_bias": config.use_bias,
        "use_conv_bias": config.use_conv_bias,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tied_embeddings,
    }


FAMILY = Family(
    model=Mamba,
    table=TABLE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    ignored=ignored,
    renames=((r"^(backbone\.)?embedding\.", "backbone.embeddings."),),
    checkpoints=(
        "state-spaces/mamba-130m-hf",
        "state-spaces/mamba-370m-hf",
        "state-spaces/mamba-790m-hf",
        "state-spaces/mamba-1.4b-hf",
    ),
    special="no attention: convolution and selective scan, decoding with constant state",
)
