"""How much text fits into the input vectors of a language model?"""

from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, compress
from memcomp.compressors.files import load_soft_prompts, save_soft_prompts
from memcomp.compressors.generate import generate
from memcomp.compressors.registry import load_compressor, save_compressor
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.memory_file import load_memory, save_memory
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.lm.protocol import LanguageModel

__all__ = [
    "CramConfig",
    "InputError",
    "LanguageModel",
    "SoftPrompts",
    "TrainedCompressor",
    "compress",
    "cram",
    "decode",
    "generate",
    "load_compressor",
    "load_lm",
    "load_memory",
    "load_soft_prompts",
    "save_compressor",
    "save_memory",
    "save_soft_prompts",
]
