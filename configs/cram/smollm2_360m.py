r"""Cram 64 tokens into one vector of SmolLM2-360M, by our own recipe.

  python experiments/cram.py --config configs/cram/smollm2_360m.py \
      --config.texts=FILE --workdir runs/smollm2_360m

Every token is scored, and a text counts when the stored vector decodes to it greedily. The
mean horizon that was published for beginnings of PG-19 books is 61.0 ± 24.6 tokens and 266
± 122 bits of gain at the rate 0.1; 132.9 ± 36.3 at 1.0 and 138.4 ± 56.5 at 5.0. Those are
teacher-forced and in bfloat16: progressive_smollm2_360m.py. experiments/real_models.py
finds the longest prefix that a vector holds.
Expected cost (computed, see base.py): 4.7e16 FLOPs, 0.066 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.everything()
    config.lm = "HuggingFaceTB/SmolLM2-360M"
    config.slice = "v5e:1x1"
    config.num_texts = 50
    config.cram.num_tokens = (64,)
    config.cram.batch_size = 50
    return config
