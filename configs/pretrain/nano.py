r"""4.26M parameters, the size of the first built-in LM.

  python experiments/pretrain_lm.py --config configs/pretrain/nano.py \
      --config.texts=FOLDER --config.valid=FOLDER --workdir runs/nano

FOLDER holds .txt files. One and a half hours on two free CPU cores is what the first
built-in LM took for as many tokens of English novels, in another program.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/pretrain_lm.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.texts = config_dict.placeholder(str)
    config.valid = ""  # folder of .txt files, or none
    config.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU
    config.slice = "v5e:1x1"  # TPU that experiments/compile_check.py compiles for
    config.model = config_dict.create(
        vocab_size=4096,
        num_layers=4,
        d_model=256,
        d_mlp=704,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        max_positions=512,
        rope_theta=10_000.0,
        remat="none",
    )
    config.train = config_dict.create(
        num_tokens=10_700_000,
        window=256,
        batch_size=16,
        learning_rate=5e-3,
        embedding_learning_rate=5e-3,
        warmup=0.02,
        decay=0.3,
        weight_decay=0.1,
        max_grad_norm=1.0,
    )
    config.steps_per_chunk = 10
    config.save_every = 100
    config.evaluate_every = 1_000
    return config
