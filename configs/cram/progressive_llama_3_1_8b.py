r"""Cram 1,438 tokens into one vector of Llama-3.1-8B, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_llama_3_1_8b.py \
      --config.texts=FILE --workdir runs/progressive_llama_3_1_8b

Published, arXiv:2607.21231: the mean exact horizon of 50 texts of PG-19 is 1438 tokens;
1697 where memory is W z + b with 256 numbers z, and W and b the text's own too,
see `progressive` in base.py.
Expected cost (computed, see base.py): 2.3e19 FLOPs, 16 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "meta-llama/Meta-Llama-3.1-8B"
    config.cram.num_tokens = (1438,)
    config.cram.batch_size = 2
    config.mesh.update(data=1, fsdp=-1)
    config.slice = "v6e:2x4"
    return config
