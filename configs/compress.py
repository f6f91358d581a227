r"""Classical compressors, and arithmetic coding with the LM, beside the published Table 4.

  python experiments/compress.py --workdir runs/compress
  python experiments/compress.py --config.texts=novels --config.passages=10 \
      --config.num_words=1568 --config.source=novels --workdir runs/compress_novels

The second is as published (a folder of .txt files; passages of each): texts of 1,568
words, each compressed by itself.

Cost on two cores of a CPU with the built-in LM: a quarter of a minute for the first, ten
minutes for 16 texts of the second.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/compress.py reads."""
    shared = base.everything()
    names = ("seed", "lm", "dtype", "field", "passages", "vocabulary", "manual_dir")
    config = config_dict.ConfigDict({name: shared[name] for name in names})
    config.texts = "builtin"  # as for cramming
    config.num_texts = config_dict.placeholder(int)  # None: all
    config.num_words = config_dict.placeholder(int)  # the first of each text; None: all
    config.source = config_dict.placeholder(str)  # in the records; None: the file's name
    # Of zlib, bz2, lzma, zstd, huffman, arithmetic; empty: all that are installed.
    config.methods = ()
    return config
