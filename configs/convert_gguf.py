r"""A Hugging Face folder from a GGUF file.

  python experiments/convert_gguf.py FILE FOLDER

FILE is the name of a .gguf file with a tokenizer, FOLDER that of a folder which is made.
Cost on two CPU cores: a minute for 270 million parameters.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/convert_gguf.py reads."""
    config = config_dict.ConfigDict()
    config.paths = ()  # what stands on the command line comes here
    return config
