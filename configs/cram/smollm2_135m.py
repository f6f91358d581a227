r"""Cram 64 tokens into one vector of SmolLM2-135M, by our own recipe.

  python experiments/cram.py --config configs/cram/smollm2_135m.py \
      --config.texts=FILE --workdir runs/smollm2_135m

Every token is scored, and a text counts when the stored vector decodes to it greedily. The
mean horizon that was published for beginnings of PG-19 books is 38.5 ± 14.1 tokens and 168
± 66 bits of gain at the rate 0.1; 62.2 at 0.5, 63.1 at 1.0, 57.1 at 5.0; 63.5 with
--config.cram.recipe=low_dim at rank 64 and 77.7 ± 23.2 (314 ± 82 bits) at rank 256. Those
are teacher-forced and in bfloat16: progressive_smollm2_135m.py. experiments/real_models.py
finds the longest prefix that a vector holds.
Expected cost (computed, see base.py): 1.7e16 FLOPs, 0.025 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.everything()
    config.lm = "HuggingFaceTB/SmolLM2-135M"
    config.slice = "v5e:1x1"
    config.num_texts = 50
    config.cram.num_tokens = (64,)
    config.cram.batch_size = 50
    return config
