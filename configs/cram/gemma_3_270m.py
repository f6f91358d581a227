r"""Cram 64 tokens into one vector of gemma-3-270m, by our own recipe.

  python experiments/cram.py --config configs/cram/gemma_3_270m.py \
      --config.texts=FILE --workdir runs/gemma_3_270m

Every token is scored, and a text counts when the stored vector decodes to it greedily. The
mean horizon that was published for beginnings of PG-19 books is 71.2 ± 14.2 tokens and 392
± 71 bits of gain at the rate 0.1. Those are teacher-forced and in bfloat16:
progressive_gemma_3_270m.py. experiments/real_models.py finds the longest prefix that a
vector holds.
Expected cost (computed, see base.py): 3.5e16 FLOPs, 0.049 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.everything()
    config.lm = "google/gemma-3-270m"
    config.slice = "v5e:1x1"
    config.num_texts = 50
    config.cram.num_tokens = (64,)
    config.cram.batch_size = 50
    return config
