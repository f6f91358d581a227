r"""11.97M parameters, 23.9 MB in bfloat16: the largest LM that fits into the package.

  python experiments/pretrain_lm.py --config configs/pretrain/small.py \
      --config.texts=FOLDER --config.valid=FOLDER --workdir runs/small

FOLDER holds .txt files. Meant for one H100; not yet measured there.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/pretrain_lm.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.texts = config_dict.placeholder(str)
    config.valid = ""  # folder of .txt files, or none
    config.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU
    # TPU that experiments/compile_check.py compiles for. The heads' weights of 128 windows
    # have no room on a v5e: there, model.remat=full.
    config.slice = "v6e:1x1"
    config.model = config_dict.create(
        vocab_size=4096,
        num_layers=8,
        d_model=320,
        d_mlp=960,
        num_heads=5,
        num_kv_heads=5,
        head_dim=64,
        max_positions=512,
        rope_theta=10_000.0,
        remat="none",
    )
    config.train = config_dict.create(
        num_tokens=1_050_000_000,
        window=512,
        batch_size=128,
        learning_rate=4e-3,
        embedding_learning_rate=4e-3,
        warmup=0.01,
        decay=0.3,
        # Strong, because a billion tokens are many passes over any text at hand.
        weight_decay=0.5,
        max_grad_norm=1.0,
    )
    config.steps_per_chunk = 50
    config.save_every = 1_000
    config.evaluate_every = 1_000
    return config
