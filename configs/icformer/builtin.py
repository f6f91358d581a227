r"""Compressors for the built-in LM: 128 tokens of novels to 32 or 16 vectors.

  R="python experiments/icformer.py --config configs/icformer/builtin.py:icformer,32 \
      --config.texts=FOLDER/train --config.valid=FOLDER/valid"
  $R --config.context.length=32 --config.evaluate.lengths='(32,)' \
      --config.train.batch_size=16 --config.train.num_steps=1500 \
      --config.train.schedule_options.decay_steps=1500 --workdir runs/short
  $R --config.start=runs/short --workdir runs/long
  $R --config.start=runs/long --config.objective.continuation=64 \
      --config.objective.continuation_ratio=1.0 --config.train.num_steps=150 \
      --config.train.schedule_options.decay_steps=150 --workdir runs/on
  $R --config.stage=evaluate --config.start=runs/long --workdir runs/table

Autoencoding of short contexts, then of long ones, then going on with the text. "icae" in
the place of "icformer" is ICAE on the same batches, and "gradmem" is GradMem. Numbers:
docs/icformer.md. What is published took a far larger LM, and a thousand times the tokens.
"""

from ml_collections import config_dict

from configs.icformer import base


def get_config(what: str = "icformer") -> config_dict.ConfigDict:
    """Everything that experiments/icformer.py reads.

    Args:
      what: "icformer", "icae", "gradmem" or "pooling"; after a comma, the number of vectors
        of a context (32).
    """
    name, _, num_digests = what.partition(",")
    num_digests = num_digests or "32"
    config = base.everything()
    config.compressor = name
    # Zeros, as published, begin with a gradient that is nearly all of the digests'.
    config.icformer.update(num_digests=int(num_digests), digest_init="normal")
    config.icae.update(num_digests=int(num_digests), rank=32, alpha=32.0)
    config.pooling.update(num_digests=int(num_digests))
    # The start has the size of the LM's token embeddings.
    config.gradmem.update(num_digests=int(num_digests), rate=1.0, start_std=0.1)
    config.context.update(length=128, by_tokens=True)
    config.train.update(num_steps=600, batch_size=8)
    config.train.schedule = "warmup_cosine_decay_schedule"
    config.train.schedule_options = config_dict.create(
        init_value=0.0, peak_value=1e-3, warmup_steps=50, decay_steps=600
    )
    config.update(log_every=20, save_every=100, evaluate_every=500, num_valid=64)
    config.evaluate.update(lengths=(32, 64, 128), num_texts=64)
    return config
