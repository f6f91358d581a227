"""`load_lm`: makes a `LanguageModel` from a folder, a Hub id or "builtin"."""

import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memcomp.convert import engine
from memcomp.convert.configs import check_entries, check_values
from memcomp.convert.families import FAMILIES
from memcomp.convert.files import Checkpoint, read_json, save_checkpoint
from memcomp.convert.fingerprint import fingerprint_of
from memcomp.convert.names import Renamed, renames_of, settle_head
from memcomp.disk import local_path
from memcomp.errors import InputError, refusing
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.nn.flash import resolve_attention
from memcomp.nn.remat import check_remat
from memcomp.ranges import check_choice
from memcomp.sharding import placer

# Checkpoints of the registry can also be named without their owner, such as "gpt2".
_SHORT_NAMES = {
    name.split("/")[-1]: name for f in FAMILIES.values() for name in f.checkpoints
}
BUILTIN = pathlib.Path(__file__).parent.parent / "builtin"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def abstract_params(module: CausalLM) -> engine.Params:
    """Shapes of all parameters, boxed with their logical axes, without computing them."""
    x = jax.ShapeDtypeStruct((1, 2, module.config.d_model), jnp.result_type(float))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(module.init, key, x)["params"]


def check_dtype(name: str) -> None:
    """Raises `InputError` for a name that is not a key of `DTYPES`."""
    check_choice("dtype", name, DTYPES)


def load_lm(
    lm: str,
    *,
    dtype: str = "float32",
    remat: str = "none",
    attention: str = "plain",
    mesh: jax.sharding.Mesh | None = None,
) -> LanguageModel:
    """Loads a language model from disk or from the Hugging Face Hub.

    Args:
      lm: a folder in Hugging Face format, the id of a Hub repository, or "builtin". The
        owner of a checkpoint in the registry may be left out, as in "gpt2".
      dtype: dtype of parameters and activations: "float32", "bfloat16" or "float16".
      remat: what the backward pass keeps of a layer, a key of `memcomp.nn.remat.REMAT`:
        "none" keeps all, "dots" the results of matrix products, "full" nothing.
      attention: attention implementation, a key of `memcomp.nn.flash.ATTENTION`, or "auto"
        for the best on these devices; an LM without attention ignores it.
      mesh: mesh over which the rules of `memcomp.sharding` shard the parameters, so that
        each device receives only its shard; None for the default device.

    Raises:
      InputError: the LM is not found, there is no network for an id that is not in the
        cache, its architecture is unknown, its parameters are damaged or do not fit the
        config, or the attention does not run on these devices.
    """
    check_dtype(dtype)
    check_remat(remat)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    attention = resolve_attention(attention, device.platform, DTYPES[dtype])
    folder, revision = _find(lm)
    path = folder / "config.json"
    checkpoint = Checkpoint(folder)
    family, hf = _config(path, len(checkpoint.shapes()))
    with refusing(str(path), control=lambda: _config_of(family, type(hf)())):
        config = _config_of(family, hf)
    names = Renamed(checkpoint, renames_of(family))
    names, config = settle_head(checkpoint, names, family, config)
    build = functools.partial(_build, family, remat=remat, attention=attention)
    with refusing(str(path), control=lambda: build(_config_of(family, type(hf)()))):
        module, boxed = build(config)
    config = module.config
    params = engine.from_hf(
        names,
        family.table,
        engine.sizes_of(config),
        nn.unbox(boxed),
        dtype=DTYPES[dtype],
        ignored=family.skipped(config),
        place=_on_default if mesh is None else placer(boxed, mesh),
    )
    return LanguageModel(
        name=lm,
        module=module,
        config=config,
        params=params,
        tokenizer=_tokenizer(folder, hf),
        dtype=DTYPES[dtype],
        fingerprint=fingerprint_of(names.digests(checkpoint.digests), config),
        revision=revision,
        mesh=mesh,
    )


def _config_of(family: Any, hf: Any) -> Any:
    """Converts a config of transformers into the family's own and checks its values."""
    config = family.config_from_hf(hf)
    check_values(config)
    return config


def _build(
    family: Any, config: Any, *, remat: str, attention: str
) -> tuple[CausalLM, engine.Params]:
    """Makes the module of a config, and its abstract parameters."""
    config = dataclasses.replace(config, remat=remat)
    if hasattr(config, "attention"):
        config = dataclasses.replace(config, attention=attention)
    module = family.model(config)
    return module, abstract_params(module)


def _on_default(path: str, array: np.ndarray) -> jax.Array:
    return jax.device_put(array)


def export_lm(
    folder: pathlib.Path, module: CausalLM, params: engine.Params, **extra: Any
) -> None:
    """Writes an LM to a folder that transformers can load; the inverse of `load_lm`.

    Args:
      folder: folder to write; it is made if it does not exist.
      module: the Flax module of `params`.
      params: parameters, written in their own dtype.
      **extra: further entries of config.json, such as token ids.
    """
    family = next(f for f in FAMILIES.values() if isinstance(module, f.model))
    tensors = engine.to_hf(params, family.table, engine.sizes_of(module.config))
    dtype = str(next(iter(tensors.values())).dtype)
    config = {**family.config_to_hf(module.config), "dtype": dtype, **extra}
    save_checkpoint(folder, tensors, config)


def _find(lm: str) -> tuple[pathlib.Path, str | None]:
    if lm == "builtin":
        return BUILTIN, None
    folder = local_path(lm)
    if lm and folder.is_dir():  # an empty name would be the current folder
        return folder, None
    lm = _SHORT_NAMES.get(lm, lm)
    if folder.exists() or lm.count("/") != 1 or lm.startswith((".", "/", "~")):
        raise InputError(
            f"no language model at {lm!r}: wanted a folder in Hugging Face format, "
            'the id of a Hub repository such as "EleutherAI/pythia-160m", or "builtin"'
        )
    path = _download(lm, ["*.json", "*.safetensors", "*.model", "*.txt"])
    if not any(path.glob("*.safetensors")):
        path = _download(lm, ["pytorch_model*.bin"], revision=path.name)
    return path, path.name


def _download(
    repository: str, patterns: list[str], revision: str | None = None
) -> pathlib.Path:
    """Downloads the repository's top-level files that match; returns their cache folder."""
    import huggingface_hub as hub  # imported late, because most loads do not need it

    try:
        folder = hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    except (
        hub.errors.HfHubHTTPError,
        hub.errors.LocalEntryNotFoundError,
        hub.errors.HFValidationError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{repository!r} is neither a folder nor in the Hub's cache, and could not be "
            f"downloaded; check the name and the network, or give a folder ({reason})"
        ) from error
    return pathlib.Path(folder)


def _config(path: pathlib.Path, num_tensors: int) -> tuple[Any, Any]:
    """Reads config.json; returns its family, and the config of transformers."""
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no config.json; wanted a folder in Hugging Face format"
        )
    entries = read_json(path)
    model_type = entries.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{path} is of architecture {model_type!r}; known are {', '.join(FAMILIES)}"
        )
    import transformers  # imported late: it takes a second, which only loading should pay

    with refusing(str(path)):
        check_entries(entries, num_tensors)
        # Not from_pretrained, which may follow an entry to another file.
        hf = transformers.CONFIG_MAPPING[model_type].from_dict(entries)
    return FAMILIES[model_type], hf


def _tokenizer(folder: pathlib.Path, hf: Any) -> Any:
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json")):
        return None
    import transformers

    with refusing(f"the tokenizer in {folder}"):
        return transformers.AutoTokenizer.from_pretrained(
            folder, config=hf, trust_remote_code=False
        )
