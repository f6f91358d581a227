"""Llama checkpoints in Hugging Face layout."""

from memcomp.convert import llama_layout as layout
from memcomp.convert.engine import Family
from memcomp.models.llama import Llama, LlamaConfig

NAMES = {
    **(layout.NAMES | layout.NORM_EPS),
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
}


FAMILY = Family(
    model=Llama,
    config=LlamaConfig,
    model_type="llama",
    architecture="LlamaForCausalLM",
    table=layout.TABLE,
    names=NAMES,
    read=layout.read,
    write=layout.write,
    ignored=layout.IGNORED,
    checkpoints=(
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Meta-Llama-3.1-8B",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-2-7b-chat-hf",
        "princeton-nlp/Sheared-LLaMA-1.3B",
        "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-360M",
        "HuggingFaceTB/SmolLM2-1.7B",
        "TinyLlama/TinyLlama_v1.1",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ),
    special="grouped-query attention, SwiGLU, scaled rotary positions",
)
