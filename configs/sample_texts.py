r"""Texts sampled from a language model: a corpus without end to train compressors on.

  python experiments/sample_texts.py
  python experiments/sample_texts.py --config.lm=FOLDER/stories260k \
      --config.num_texts=130_000 --config.num_tokens=512 --workdir runs/stories

The first takes half a minute on two CPU cores. The second samples 50 million tokens; its
runs/stories/results.jsonl is a source of texts for the other commands, as
--config.texts=runs/stories/results.jsonl. Speed: docs/commands.md.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/sample_texts.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.lm = "builtin"  # folder, Hub id or "builtin"
    config.dtype = "float32"  # "bfloat16" and "float16" too
    config.num_texts = 64
    config.num_tokens = 128  # most tokens of a text
    config.temperature = 1.0
    config.top_p = 1.0  # below 1: of the likeliest tokens of this total probability
    config.batch_size = 64  # texts that are sampled together
    # Devices; -1 for all that the others leave. fsdp and tensor cut weights.
    config.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    return config
