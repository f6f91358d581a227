r"""Cram 64 tokens into one vector of gemma-3-1b-pt, by our own recipe.

  python experiments/cram.py --config configs/cram/gemma_3_1b.py \
      --config.texts=FILE --workdir runs/gemma_3_1b

Every token is scored, and a text counts when the stored vector decodes to it greedily. The
mean horizon that was published for beginnings of PG-19 books is 74.8 ± 34.3 tokens and 338
± 104 bits of gain at the rate 0.1. Those are teacher-forced and in bfloat16:
progressive_gemma_3_1b.py. experiments/real_models.py finds the longest prefix that a vector
holds.
Expected cost (computed, see base.py): 1.3e17 FLOPs, 0.18 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.everything()
    config.lm = "google/gemma-3-1b-pt"
    config.slice = "v5e:1x1"
    config.num_texts = 50
    config.cram.num_tokens = (64,)
    config.cram.batch_size = 25  # 28 have room on a v5e, by the compiler
    return config
