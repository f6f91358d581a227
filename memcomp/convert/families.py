"""Registry of model families."""

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
    smollm3,
)

# `model_type` in config.json -> family.
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
    "smollm3": smollm3.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "gemma3": gemma3.WITH_VISION,
}


def families_table() -> str:
    """Returns the registry as a Markdown table with one row per `model_type`."""
    head = ("`model_type`", "checkpoints", "what is special", "memory enters")
    rows = [head, ("---",) * len(head)]
    for name, family in FAMILIES.items():
        checkpoints = ", ".join(family.checkpoints)
        rows.append((f"`{name}`", checkpoints, family.special, family.memory_enters))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
