"""A tiny LM from the documentation that comes with Python: shows that all works.

  python experiments/pretrain_lm.py

About a minute on two CPU cores. For real use give --config.texts=FOLDER and one of the
larger configs beside this one.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/pretrain_lm.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    # "python/train" and "python/valid", "builtin", or a folder of .txt files.
    config.texts = "python/train"
    config.valid = "python/valid"
    config.dtype = "auto"
    config.slice = "v5e:1x1"  # TPU that experiments/compile_check.py compiles for
    config.model = config_dict.create(
        vocab_size=1024,
        num_layers=2,
        d_model=128,
        d_mlp=384,
        num_heads=2,
        num_kv_heads=2,
        head_dim=64,
        max_positions=256,
        rope_theta=10_000.0,
        remat="none",
    )
    config.train = config_dict.create(
        num_tokens=500_000,
        window=128,
        batch_size=16,
        learning_rate=5e-3,
        embedding_learning_rate=5e-3,
        warmup=0.05,
        decay=0.3,
        weight_decay=0.1,
        max_grad_norm=1.0,
    )
    config.steps_per_chunk = 10
    config.save_every = 50
    config.evaluate_every = 100
    return config
