"""How much text fits into the input vectors of a language model?"""

from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.memory_file import load_memory, save_memory
from memcomp.errors import InputError
from memcomp.evaluation.decoding import decode
from memcomp.lm import LanguageModel, load_lm

__all__ = [
    "CramConfig",
    "InputError",
    "LanguageModel",
    "cram",
    "decode",
    "load_lm",
    "load_memory",
    "save_memory",
]
