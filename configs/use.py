r"""Use of memory: attention on it, knockout, the continuation, and contexts in its place.

  python experiments/use.py --workdir runs/use
  python experiments/use.py --config.texts=FOLDER --config.passages=16 \
      --config.num_texts=64 --config.before='(4,8,16,64)' \
      --config.source=novels --workdir runs/use_novels

Of each text the first max(before) tokens are what stands before, the next cram.num_tokens
are crammed, and the `after` tokens that follow are the continuation.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/use.py reads."""
    config = base.everything()
    del config.protocol  # strict
    config.texts = "builtin"
    config.source = config_dict.placeholder(str)  # in a report; None: the file's name
    config.cram.num_tokens = (4,)  # one length for all texts
    config.before = (4, 8, 16)  # real tokens in the place of memory
    config.after = 16
    # Of attention, knockout, use, context; empty: all that the LM allows.
    config.studies = ()
    return config
