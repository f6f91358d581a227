"""Small GGUF files of random models, laid out as llama.cpp's converter lays them out.

What the extra `gguf` brings is imported late: tests that are not chosen have no need of it.
"""

import numpy as np

WORDS = ("the", "Ġrain", "Ġhad")
END = "<|endoftext|>"
SIZES = {"num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
PLAIN = {**SIZES, **HEADS, "hidden_size": 32, "intermediate_size": 64}
PLAIN["max_position_embeddings"] = 64
# GGUF's name -> what makes the config, with what transformers does not read left as it is.
CONFIGS = {
    "llama": PLAIN | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "qwen2": PLAIN,
    "qwen3": PLAIN | {"head_dim": 128},
    "gemma3": PLAIN | {"num_hidden_layers": 7, "head_dim": 256, "sliding_window": 7},
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "initializer_range": 0.3},
    "mamba": SIZES | {"hidden_size": 32, "time_step_rank": 2},
}


def byte_tokens():
    """A byte-level vocabulary: every byte, three words by merges, and what ends a text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens, merges = list(bytes_to_unicode().values()), []
    for word in WORDS:
        built = word[0]
        for letter in word[1:]:
            merges.append(f"{built} {letter}")
            built += letter
            tokens.append(built)
    return [*tokens, END], merges


def random_model(architecture, folder, **changes):
    """A model with large random weights, and its folder as transformers writes it."""
    import torch
    import transformers

    torch.manual_seed(0)
    entries = CONFIGS[architecture] | {"vocab_size": len(byte_tokens()[0])} | changes
    model_type = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    config = transformers.AutoConfig.for_model(model_type, **entries)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


def write_gguf(
    path, architecture, model, *, kind="F32", tokenizer=True, without=(), **more
):
    """Writes a model of `random_model`.

    Args:
      kind: as which matrices are stored, if they are as wide as its blocks.
      without: keys that are left out, without the name of the architecture.
      more: further settings, and changes of those of the model, by such keys.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")])
    for name, value in (settings(architecture, model.config) | more).items():
        if name not in without:
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add = writer.add_string if isinstance(value, str) else add
            add = writer.add_bool if isinstance(value, bool) else add
            add(name if name == "split.count" else f"{architecture}.{name}", value)
    if tokenizer:
        tokens, merges = byte_tokens()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [3])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(len(tokens) - 1)
        writer.add_eos_token_id(len(tokens) - 1)
    for name, array in tensors(architecture, model).items():
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def settings(architecture, config):
    """What the metadata says of the model, by the names that follow the architecture's."""
    said = {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
    }
    if architecture == "mamba":
        return said | {
            "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
            "ssm.conv_kernel": config.conv_kernel,
            "ssm.state_size": config.state_size,
            "ssm.time_step_rank": config.time_step_rank,
            "ssm.inner_size": config.intermediate_size,
            "attention.head_count": 0,
        }
    said["context_length"] = config.max_position_embeddings
    said["attention.head_count"] = config.num_attention_heads
    if architecture == "gpt2":
        said["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
        return said | {"feed_forward_length": 4 * config.hidden_size}
    rope = config.rope_parameters
    said |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
    }
    if architecture == "llama":
        return said | {"rope.dimension_count": config.head_dim}
    if architecture != "qwen2":
        said["attention.key_length"] = said["attention.value_length"] = config.head_dim
    if architecture == "gemma3":
        local = rope["sliding_attention"]["rope_theta"]
        said["attention.sliding_window"] = config.sliding_window
        said["rope.freq_base_swa"] = float(local)
    return said


def tensors(architecture, model):
    """The weights by GGUF's names, in llama.cpp's layout."""
    import gguf

    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    config = model.config
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for name, weight in model.named_parameters():
        stem, dot, suffix = name.rpartition(".")
        if suffix not in ("weight", "bias"):
            stem, dot, suffix = name, "", ""
        array = weight.detach().numpy()
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            query = stem.endswith("q_proj")
            heads = config.num_attention_heads if query else config.num_key_value_heads
            pairs = array.reshape(heads, 2, -1, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        elif architecture == "gemma3" and stem.endswith("norm"):
            array = array + 1
        elif architecture == "gpt2" and ".h." in stem and array.ndim == 2:
            array = array.T
        elif stem.endswith("A_log"):
            array = -np.exp(array)
        elif stem.endswith("conv1d") and array.ndim == 3:
            array = array[:, 0]
        found[names.get_name(stem) + dot + suffix] = np.ascontiguousarray(array)
    return found
