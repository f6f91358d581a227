r"""Cram 16 English passages into one vector each of the LM that ships with memcomp.

  python experiments/cram.py

Lengths go from what one vector of this LM always holds to what it cannot hold.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.everything()
    config.texts = "builtin"
    config.cram.num_tokens = (3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8, 9, 10, 12, 14, 16)
    config.slice = "v5e:1x1"
    return config
