r"""Speed and memory of cramming, beside a PyTorch loop on the same weights and texts.

  python experiments/benchmark.py --workdir runs/benchmark
  python experiments/benchmark.py --config.rows=builtin,pythia_160m --workdir runs/speed

The PyTorch side needs the extra `parity`; without it, ours is measured alone. Other work
on the machine hurts PyTorch more than JAX, so give this the machine to itself.

Cost: ten minutes, and an hour or more for mamba_130m. On two cores of an AMD EPYC with
AVX-512 (jax 0.10.2, torch 2.13.0); median of the ratios, smallest and largest:

  builtin: ours / PyTorch, one text at a time         4.2   (3.9 to 5.6)
  builtin: ours / PyTorch, batched                    1.8   (1.8 to 1.9)
  pythia_160m: ours / PyTorch, one text at a time     2.4   (2.1 to 2.7)
  pythia_160m: ours / PyTorch, batched                1.8   (1.6 to 2.1)
  pythia_160m: share of the matmul rate               0.87  (0.79 to 0.97)
  to_exact: PyTorch with reference / ours             23.5
  grid: PyTorch with reference / ours, on one core   22.7   (20.7 to 24.7)
  refill: fixed batches / refilled places             3.5   (3.0 to 3.6)
  cross_entropy: bytes plain / in chunks, alone      13.7

mamba_130m on the same machine, busy with other work: PyTorch's gradient with one of the 24
layers (`--config.mamba_130m.shape.num_hidden_layers=1`), three rounds; all of them, one:

  mamba_130m, one layer: ours / PyTorch, gradient    72     (71 to 78)
  mamba_130m: ours / PyTorch, gradient, one round   194

PyTorch's gradient is quadratic in length: autograd makes for each position that is sliced
from an array a gradient as long as the whole. With all layers, one run was stopped after
36 minutes on that busy machine; one with `--config.mamba_130m.rounds=1` took 18.

to_exact is one run, of all 64 texts on both sides (`--config.to_exact.pytorch_texts=64`).
The rows of configs/gpu_benchmark.py are for a GPU.
"""

from ml_collections import config_dict

LLAMA_1B = dict(
    model_type="llama",
    hidden_size=2048,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    intermediate_size=8192,
    vocab_size=128256,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/benchmark.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    # "all", or names of rows with commas: builtin, pythia_160m, to_exact, grid, refill,
    # cross_entropy, breakdown, decoding, long_text, mamba_130m.
    config.rows = "all"
    config.rounds = 9  # of each comparison, the sides in turn
    config.pytorch = True  # measure it too

    # Speed: `steps` of each side a round. `lm` is a folder, a Hub id or "builtin"; or else
    # random weights of `shape`, which is a config.json.
    config.builtin = config_dict.create(
        lm="builtin",
        dtype="float32",
        num_texts=64,
        num_tokens=32,
        steps=6,
        one_steps=30,  # of PyTorch, one text at a time
        matmul=(3072, 768, 3072),  # rows, inner and columns of the machine's own rate
    )
    config.pythia_160m = config_dict.create(
        shape=dict(
            model_type="gpt_neox",
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            vocab_size=50304,
            max_position_embeddings=2048,
            rotary_pct=0.25,
        ),
        dtype="float32",
        num_texts=16,
        num_tokens=64,
        steps=1,
        one_steps=4,
        matmul=(3072, 768, 3072),
    )

    # Texts to exactness or to the end of the recipe's budget.
    config.to_exact = config_dict.create(
        lm="builtin",
        texts="builtin",
        num_texts=64,
        num_tokens=6,
        batch_size=16,
        steps_per_chunk=20,
        recipe="default",
        pytorch_texts=24,  # a random sample, from which the time of all is estimated
    )
    # A sweep: all texts at all lengths.
    config.grid = config_dict.create(
        lm="builtin",
        texts="builtin",
        num_texts=64,
        num_tokens=24,
        lengths=(2, 3, 4, 6, 8, 12, 16, 24),
        batch_size=32,
        steps_per_chunk=25,
        recipe="default",
        pytorch_texts=8,  # of each length
    )
    # Refilled places beside fixed batches; the hard texts are random tokens.
    config.refill = config_dict.create(
        lm="builtin",
        texts="builtin",
        num_texts=64,
        num_hard=16,
        num_tokens=4,
        batch_size=16,
        steps_per_chunk=20,
        recipe="default",
        rounds=3,
    )
    # Memory of one gradient, from the compiler alone: Llama-3.2-1B's widths, fewer layers.
    config.cross_entropy = config_dict.create(
        shape=LLAMA_1B | {"num_hidden_layers": 2},
        dtype="float32",  # products in bfloat16 are made of float32 copies on a CPU
        num_texts=8,
        num_tokens=1568,
        vocab_chunk=8192,
    )
    # Seconds of a step by its parts.
    config.breakdown = config_dict.create(
        lm="builtin",
        attention="plain",
        num_texts=16,
        num_tokens=32,
        steps=10,
        score="loss",  # which score is differentiated: "loss" or "margin"
        vocab_chunk=8192,
    )
    # Tokens per second decoded from memory, in the ways of writing.
    config.decoding = config_dict.create(lm="builtin", num_texts=8, num_tokens=64)
    # Memory of a step on one long text, from the compiler alone; the first way is what
    # the others are set beside.
    config.long_text = config_dict.create(
        shape=LLAMA_1B,
        dtype="float32",  # as above
        num_texts=1,
        num_tokens=8192,
        num_memory=16,
        vocab_chunk=8192,
        ways=(
            ("plain", "none"),
            ("plain", "full"),
            ("blockwise", "none"),
            ("blockwise", "dots"),
            ("blockwise", "full"),
        ),
    )
    # One gradient to a text's input vectors; PyTorch's scan takes a step a position.
    config.mamba_130m = config_dict.create(
        shape=dict(
            model_type="mamba",
            hidden_size=768,
            num_hidden_layers=24,
            state_size=16,
            conv_kernel=4,
            expand=2,
            vocab_size=50280,
        ),
        dtype="float32",
        num_tokens=512,
        steps=3,  # of ours a round; one of PyTorch
        rounds=3,
    )
    return config
