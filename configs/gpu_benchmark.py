r"""Speed and memory on one GPU, beside PyTorch on the same one; the whole in 8 minutes.

  python experiments/gpu_benchmark.py --workdir runs/gpu
  python experiments/gpu_benchmark.py --config.rows=cram_llama_1b_512

Weights are random, in bfloat16. Rows are measured in the order given, the most valuable
first, until `seconds` of their part are spent; each row's record is in results.jsonl when
it is done, and the same command goes on with the rows that are not there. A row that the
memory has no room for is tried again with half its texts.

Needs the extras `cuda` and, for PyTorch's part, torch with CUDA. It has not been run on a
GPU yet: on a CPU the rows are tested at small shapes.
"""

from ml_collections import config_dict

LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
PYTHIA = {
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "max_position_embeddings": 4096,  # the published 2,048, for rows of 4,096 tokens
    "rotary_pct": 0.25,
}


def shapes() -> dict[str, dict]:
    """A config.json each: the published sizes."""
    return {
        "pythia_160m": PYTHIA
        | dict(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
        ),
        "pythia_1_4b": PYTHIA
        | dict(
            hidden_size=2048,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=8192,
        ),
        "llama_1b": LLAMA
        | dict(
            hidden_size=2048,
            num_hidden_layers=16,
            head_dim=64,
            intermediate_size=8192,
            tie_word_embeddings=True,
            rope_parameters=LLAMA["rope_parameters"] | {"factor": 32.0},
        ),
        "llama_8b": LLAMA
        | dict(
            hidden_size=4096,
            num_hidden_layers=32,
            head_dim=128,
            intermediate_size=14336,
            tie_word_embeddings=False,
            rope_parameters=LLAMA["rope_parameters"] | {"factor": 8.0},
        ),
    }


def _row(kind: str, shape: str, num_tokens: int, num_texts: int, **more) -> dict:
    row = dict(kind=kind, shape=shape, num_tokens=num_tokens, num_texts=num_texts)
    return {**row, "steps": 10, "attention": "cudnn", "remat": "none", **more}


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/gpu_benchmark.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.dtype = "bfloat16"
    config.matmul = (8192, 8192, 8192)
    config.rounds = 3
    config.num_digests = 128
    # A part is a process of its own, so that each has the whole memory.
    config.seconds = config_dict.create(ours=300.0, pytorch=165.0)
    config.shapes = shapes()
    one = dict(compiled=False, attention="sdpa")
    ours = {
        "attention_llama_1b": _row("attention", "llama_1b", 2048, 4),
        "cram_pythia_160m_512": _row("cram", "pythia_160m", 512, 64),
        "cram_llama_1b_512": _row("cram", "llama_1b", 512, 32),
        "cram_llama_1b_512_plain": _row("cram", "llama_1b", 512, 32, attention="plain"),
        "cram_llama_8b_512": _row("cram", "llama_8b", 512, 8, steps=4),
        "cram_llama_1b_4096": _row("cram", "llama_1b", 4096, 4, steps=4),
        "icformer_llama_1b_512": _row("icformer", "llama_1b", 512, 16),
        "cram_pythia_1_4b_512": _row("cram", "pythia_1_4b", 512, 32),
        "cram_llama_1b_128": _row("cram", "llama_1b", 128, 128),
        "cram_llama_1b_512_64": _row("cram", "llama_1b", 512, 64),
        "cram_pythia_160m_128": _row("cram", "pythia_160m", 128, 256),
        "cram_pythia_160m_4096": _row("cram", "pythia_160m", 4096, 8, steps=4),
        "icformer_llama_8b_512": _row("icformer", "llama_8b", 512, 4, remat="full"),
    }
    pytorch = {
        "one_pythia_160m_512": _row("pytorch", "pythia_160m", 512, 1, **one),
        "batched_llama_1b_512": _row("pytorch", "llama_1b", 512, 32, **one),
        "compiled_llama_1b_512": _row(
            "pytorch", "llama_1b", 512, 32, compiled=True, attention="sdpa"
        ),
        "batched_pythia_160m_512": _row("pytorch", "pythia_160m", 512, 64, **one),
        "compiled_pythia_160m_512": _row(
            "pytorch", "pythia_160m", 512, 64, compiled=True, attention="sdpa"
        ),
        "one_llama_1b_512": _row("pytorch", "llama_1b", 512, 1, **one),
        "batched_llama_8b_512": _row("pytorch", "llama_8b", 512, 8, steps=4, **one),
    }
    config.row = ours | pytorch
    config.rows = ",".join(
        [*ours, *pytorch]
    )  # in this order; each part has those of its kinds
    # What is printed in the end, and what it must reach: a figure of one row over that of
    # another, or over the matmul rate of its own part.
    config.ratios = {
        "one_at_a_time": dict(
            what="token-steps, ours / PyTorch one at a time, Pythia-160M, 512 tokens",
            above="cram_pythia_160m_512",
            below="one_pythia_160m_512",
            required=20.0,
        ),
        "mfu": dict(
            what="MFU of the cram step, Llama-3.2-1B, 512 tokens",
            above="cram_llama_1b_512",
            below="matmul",
            required=0.5,
        ),
        "compiled": dict(
            what="token-steps, ours / PyTorch batched and compiled, Llama-3.2-1B",
            above="cram_llama_1b_512",
            below="compiled_llama_1b_512",
            required=1.0,
        ),
        "batched": dict(
            what="token-steps, ours / PyTorch batched, Llama-3.2-1B",
            above="cram_llama_1b_512",
            below="batched_llama_1b_512",
            required=0.0,
        ),
    }
    return config
