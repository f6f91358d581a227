"""Conversion of GGUF files, the format of llama.cpp, to Hugging Face folders.

transformers reads the file. It dequantises parameters exactly, but it ignores some
settings, such as scaled rotary positions, and would load a model that computes something
else. A file with such a setting is refused.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors

from memcomp.convert.configs import check_values
from memcomp.convert.families import FAMILIES
from memcomp.convert.files import save_checkpoint
from memcomp.convert.gguf_header import Header, check_tensors, read_header
from memcomp.disk import local_path
from memcomp.errors import InputError, refusing

PACKAGES = ("torch", "gguf", "accelerate")  # installed by the extra `gguf`
# Architecture in a GGUF file -> `model_type`, where the two differ.
MODEL_TYPES = {"gemma3": "gemma3_text"}
# Settings, some of which transformers ignores, and functions that read from our config the
# value that each must have.
STATED = {
    "vocab_size": lambda config: config.vocab_size,
    "attention.key_length": lambda config: _scaled_head_dim(config),
    "attention.value_length": lambda config: config.head_dim,
    "rope.dimension_count": lambda config: config.rotary.dim,
    "rope.freq_base_swa": lambda config: config.window_rotary.theta,
}
# Settings that transformers ignores, with the value at which they have no effect.
UNUSED = {
    "attention.causal": True,
    "attention.head_count": 0,  # in files of Mamba
    "expert_count": 0,
    "expert_used_count": 0,
    "feed_forward_length": 0,  # in files of Mamba
    "rope.scaling.type": "none",
    "ssm.dt_b_c_rms": False,
}
# Prefixes of the names of tensors that divide the frequencies of rotary positions.
SCALED_POSITIONS = ("rope_freqs", "rope_factors")
# Entries of config.json in which transformers notes where a model was loaded from.
ORIGIN = ("_name_or_path", "_model_name_or_path", "quantization_config")


class Converted(NamedTuple):
    """Summary of a converted GGUF file.

    Attributes:
      num_parameters: number of parameters of the model; tied ones count once.
      stored: type of most parameters in the file, such as "Q4_K_M"; None if the file does
        not name it.
      bits: mean number of bits of a parameter in the file.
    """

    num_parameters: int
    stored: str | None
    bits: float

    @property
    def quantised_to(self) -> int | None:
        """Bits of most parameters; None if they are floats or `stored` is None."""
        found = re.match(r"(?:[IT]?Q|MXFP|NVFP)(\d)", self.stored or "")
        return int(found[1]) if found else None


def convert_gguf(file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Converted:
    """Writes the model of a GGUF file as a folder in Hugging Face format, for `load_lm`.

    The folder has config.json, model.safetensors in float32 and the tokenizer's files. It
    appears whole or not at all. Memory holds the parameters in float32 twice.

    Args:
      file: single GGUF file that contains a tokenizer.
      folder: folder to write, which must not exist.

    Raises:
      InputError: a package is not installed; the file is missing, is not GGUF, is cut
        off, damaged or one of several parts, has an unknown architecture, no tokenizer, or
        a setting that transformers ignores; the folder exists or cannot be written.
    """
    file, folder = local_path(file), local_path(folder)
    _check_packages()
    _check_new(folder)
    header = read_header(file)
    types = importlib.import_module("gguf").GGML_QUANT_SIZES
    num_bytes = check_tensors(file, header, {int(k): size for k, size in types.items()})
    architecture = _check_contents(file, header)
    with _alone(file) as source:
        with refusing(str(file)):
            transformers = importlib.import_module("transformers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            config = transformers.AutoConfig.from_pretrained(**source)
        _check_settings(file, header, architecture, config)
        entries, tensors = _weights(file, header, config, source)
    _write(folder, entries, tensors, tokenizer)
    num_parameters = sum(tensor.size for tensor in tensors.values())
    return Converted(num_parameters, _stored(header), 8 * num_bytes / num_parameters)


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"reading GGUF files takes {', '.join(PACKAGES)}, and {', '.join(missing)} is "
            'not installed; run pip install -e ".[gguf]"'
        )


def _check_new(folder: pathlib.Path) -> None:
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists; give the name of a new folder")
    above = next(path for path in folder.absolute().parents if os.path.lexists(path))
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{folder} cannot be written in {above}; give another folder")


def _check_contents(file: pathlib.Path, header: Header) -> str:
    """Checks by its header that a file can be converted; returns its architecture."""
    metadata, known = header.metadata, _architectures()
    architecture = metadata.get("general.architecture")
    if architecture not in known:
        raise InputError(
            f"{file} is of architecture {architecture!r}; known are {', '.join(known)}"
        )
    if (num_parts := metadata.get("split.count", 1)) > 1:
        raise InputError(
            f"{file} is one of {num_parts} parts; join them first, with llama-gguf-split "
            "--merge of llama.cpp"
        )
    if not all(metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "tokens")):
        raise InputError(f"{file} has no tokenizer; get a file that has one")
    names = [t.name for t in header.tensors if t.name.startswith(SCALED_POSITIONS)]
    if names:
        raise InputError(
            f"{file} scales rotary positions by {', '.join(names)}, which transformers "
            "ignores; get the model in Hugging Face format"
        )
    return architecture


def _architectures() -> dict[str, dict[str, str | None]]:
    """Returns the architectures that both transformers and memcomp support.

    Each maps the settings that transformers knows to their names in its config, or to None
    for a setting that it ignores.
    """
    reader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    table = reader.GGUF_TO_TRANSFORMERS_MAPPING["config"]
    of_gguf = importlib.import_module("gguf").MODEL_ARCH_NAMES.values()
    return {
        name: settings
        for name, settings in table.items()
        if name in of_gguf and MODEL_TYPES.get(name, name) in FAMILIES
    }


def _check_settings(file: pathlib.Path, header: Header, architecture: str, hf: Any) -> None:
    """Refuses a config that memcomp does not support, and settings that are ignored."""
    with refusing(str(file)):
        config = FAMILIES[hf.model_type].config_from_hf(hf)
        check_values(config)
    read = {key for key, name in _architectures()[architecture].items() if name is not None}
    ignored = []
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or UNUSED.get(name) == value:
            continue
        heeded = _is_stated(name, value, config) if name in STATED else name in read
        if not heeded:
            ignored.append(f"{key} = {value!r}")
    if ignored:
        raise InputError(
            f"{file} sets {', '.join(ignored)}, which transformers ignores; get the model "
            "in Hugging Face format"
        )


def _scaled_head_dim(config: Any) -> int | None:
    """Head width; None if attention is scaled by another, which GGUF cannot express."""
    scale = getattr(config, "query_scale", config.head_dim)
    return config.head_dim if scale == config.head_dim else None


def _is_stated(name: str, value: Any, config: Any) -> bool:
    """Whether our config has the value of a setting in `STATED`."""
    try:
        return math.isclose(STATED[name](config), value, rel_tol=1e-6)
    except (AttributeError, TypeError):  # the family has no such setting, or no number
        return False


@contextlib.contextmanager
def _alone(file: pathlib.Path) -> Iterator[dict[str, str]]:
    """Links the file in a folder of its own; yields arguments of `from_pretrained` for it.

    Otherwise transformers would also read files beside it, such as tokenizer_config.json.
    """
    with tempfile.TemporaryDirectory() as name:
        link = pathlib.Path(name) / "model.gguf"
        link.symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": name, "gguf_file": link.name}


def _weights(
    file: pathlib.Path, header: Header, hf: Any, source: dict[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the entries of config.json, and the tensors of model.safetensors."""
    transformers, torch = map(importlib.import_module, ("transformers", "torch"))
    with refusing(str(file)):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            **source,
            config=hf,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the message below names them
        )
    # `named_parameters` yields tied parameters once. GPT-2's are transposed views, whose
    # bytes safetensors would write in the order of memory.
    tensors = {
        name: np.ascontiguousarray(weight.detach().float().numpy())
        for name, weight in model.named_parameters()
    }
    stored = sum(math.prod(tensor.shape) for tensor in header.tensors)
    made = sum(tensor.size for tensor in tensors.values())
    wrong = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    if wrong or stored != made:
        names = f" ({', '.join(wrong)} would be random)" if wrong else ""
        raise InputError(
            f"{file} has {stored} weights, and the model that transformers makes of it "
            f"{made}{names}; get the model in Hugging Face format"
        )
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{file}: {name} has values that are not finite; get the file again"
            )
    entries = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return {k: v for k, v in entries.items() if k not in ORIGIN}, tensors


def _write(
    folder: pathlib.Path,
    entries: dict[str, Any],
    tensors: dict[str, np.ndarray],
    tokenizer: Any,
) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch:
            made = pathlib.Path(scratch) / "model"
            save_checkpoint(made, tensors, entries)
            tokenizer.save_pretrained(made)
            made.rename(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{folder} cannot be written ({error})") from error


def _stored(header: Header) -> str | None:
    """Name of the file's type, such as "Q4_1" for MOSTLY_Q4_1; None if it is unknown."""
    gguf: Any = importlib.import_module("gguf")
    try:
        name = gguf.LlamaFileType(header.metadata["general.file_type"]).name
    except (KeyError, ValueError):
        return None
    return None if name == "GUESSED" else name.removeprefix("MOSTLY_").removeprefix("ALL_")
