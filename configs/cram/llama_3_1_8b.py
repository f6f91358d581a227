r"""Cram 1,568 tokens into one vector of Llama-3.1-8B, as published.

  python experiments/cram.py --config configs/cram/llama_3_1_8b.py \
      --config.texts=FILE --workdir runs/llama_3_1_8b

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                1568   1094.1 ± 127.6    4865.7 ± 546.6
  fanfics              1568   1071.8 ± 168.6    4768.9 ± 622.6
  random words          792   623.2 ± 97.3      4541.2 ± 758.6

The authors' mean best accuracy by length, PG-19: 1024: 0.999, 1568: 0.999, 2048: 0.976.
The tokenizer adds BOS, which is given: every token of the text is scored.
Expected cost (computed, see base.py): 1.3e19 FLOPs, 8.8 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "meta-llama/Meta-Llama-3.1-8B"
    config.dtype = "bfloat16"
    config.cram.num_tokens = (1568,)
    config.cram.batch_size = 2
    config.mesh.update(data=1, fsdp=-1)
    config.slice = "v5p:2x2x2"
    return config
