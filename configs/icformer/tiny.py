"""A small IC-Former for the built-in LM: shows that all works.

  python experiments/icformer.py [--config.compressor=icae|gradmem]

40 seconds on two cores of a CPU. It learns little: held-out texts end at 5.06 nats a token.
"""

from ml_collections import config_dict

from configs.icformer import base


def get_config() -> config_dict.ConfigDict:
    """Contexts of 32 tokens to 8 digests, from the documentation of Python itself."""
    config = base.everything()
    config.icformer.update(num_digests=8, num_layers=2, digest_init="normal")
    config.icae.update(num_digests=8, rank=16, alpha=16.0)
    config.pooling.update(num_digests=8)
    config.gradmem.update(num_digests=8, rate=1.0, start_std=0.1)
    config.context.update(length=32, by_tokens=True)
    config.train.update(num_steps=300, schedule="warmup_cosine_decay_schedule")
    config.train.schedule_options = config_dict.create(
        init_value=0.0, peak_value=2e-3, warmup_steps=30, decay_steps=300
    )
    config.update(log_every=10, save_every=100, evaluate_every=100, num_valid=16)
    config.evaluate.update(lengths=(16, 32), num_texts=16)
    config.decode.num_tokens = 40
    return config
