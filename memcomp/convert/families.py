"""The registry of model families."""

from memcomp.convert import (
    gemma3,
    gpt2,
    gpt_neo,
    gpt_neox,
    llama,
    mamba,
    mistral,
    olmo,
    olmo2,
    opt,
    qwen2,
    qwen3,
)

# `model_type` in config.json -> the family.
FAMILIES = {
    "gpt_neox": gpt_neox.FAMILY,
    "llama": llama.FAMILY,
    "mamba": mamba.FAMILY,
    "olmo": olmo.FAMILY,
    "olmo2": olmo2.FAMILY,
    "opt": opt.FAMILY,
    "gpt2": gpt2.FAMILY,
    "gpt_neo": gpt_neo.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "mistral": mistral.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "gemma3": gemma3.WITH_VISION,
}
