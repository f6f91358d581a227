r"""A compressor for SmolLM2-135M on one GPU: 64 tokens of novels to 16 vectors.

  python experiments/icformer.py --config configs/icformer/smollm2.py:icformer \
      --config.texts=FOLDER/train --config.valid=FOLDER/valid --workdir runs/smollm2

It trains, and then writes the table of reconstructions, with baselines and with cramming,
in WORKDIR/table. "icae" in the place of "icformer" is ICAE on the same batches; with
--config.evaluate.beside="('runs/smollm2',)" it is in one table with IC-Former. Meant to
take eight minutes on an H100; only a CPU was tried, for 20 steps (80 s of CPU time).
"""

from ml_collections import config_dict

from configs.icformer import base


def get_config(compressor: str = "icformer") -> config_dict.ConfigDict:
    """Everything that experiments/icformer.py reads.

    Args:
      compressor: "icformer", "icae", "gradmem" or "pooling".
    """
    config = base.everything()
    config.stage = "both"
    config.lm = "HuggingFaceTB/SmolLM2-135M-Instruct"
    config.attention = "auto"
    config.compressor = compressor
    config.icformer.update(num_digests=16, digest_init="normal")
    config.icae.update(num_digests=16, rank=128, alpha=128.0)
    config.pooling.update(num_digests=16)
    config.gradmem.update(num_digests=16, rate=1.0, start_std=0.1)
    config.context.update(length=64, by_tokens=True)
    config.train.update(num_steps=8_000, batch_size=64)
    config.train.schedule = "warmup_cosine_decay_schedule"
    config.train.schedule_options = config_dict.create(
        init_value=0.0, peak_value=1e-3, warmup_steps=200, decay_steps=8_000
    )
    config.update(log_every=50, save_every=2_000, evaluate_every=1_000, num_valid=64)
    config.evaluate.update(
        lengths=(64,),
        kinds=("normal",),
        baselines=("truncation", "mean pooling"),
        cramming=True,
    )
    config.evaluate.cram.batch_size = 64
    return config
