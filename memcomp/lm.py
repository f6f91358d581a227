"""`load_lm`: a folder, a Hub id or "builtin" becomes a `LanguageModel`."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memcomp.convert import engine, gpt_neox, llama
from memcomp.convert.files import Checkpoint, save_checkpoint
from memcomp.errors import InputError
from memcomp.nn.attention import KVCache

# `model_type` in config.json -> the family's conversion, which names its Flax module.
FAMILIES = {"llama": llama, "gpt_neox": gpt_neox}
BUILTIN = pathlib.Path(__file__).parent / "builtin"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@runtime_checkable  # the tests check annotations
class CausalLM(Protocol):
    """What the rest of memcomp sees of a model family: a Flax module, always `apply`ed.

    Modules are hashable and go into jitted functions as static arguments.
    """

    config: Any

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors that the first layer sees in place of tokens; memory is of their kind."""
        ...

    def __call__(
        self, x: Float[Array, "B T D"], cache: KVCache | None = None
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Final hidden states of input vectors that follow what is in the cache."""
        ...

    def unembedding(self) -> Float[Array, "V D"]:
        """Rows whose product with a hidden state is a token's logit."""
        ...

    def empty_cache(self, batch: int, length: int, dtype: Any) -> KVCache:
        """A cache with room for `length` positions."""
        ...


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A frozen language model.

    Attributes:
      name: the folder, Hub id or "builtin" that it was loaded from.
      module: the Flax module, static and hashable; use with `apply`.
      config: the family's frozen config.
      params: nested dict of arrays in `dtype`.
      tokenizer: a transformers tokenizer; None for a folder without one.
      dtype: of weights and activations.
      fingerprint: SHA-256 of the weights as they are in the file (`Checkpoint`).
      revision: commit of the Hub repository; None for a folder.
    """

    name: str
    module: Any
    config: Any
    params: engine.Params = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    dtype: Any
    fingerprint: str
    revision: str | None = None

    def logits(
        self, tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"]
    ) -> Float[Array, "B T V"]:
        """Next-token logits in float32 after each prefix of `tokens`."""
        return _logits(self.params, jnp.asarray(tokens), module=self.module)


@functools.partial(jax.jit, static_argnames="module")
def _logits(params, tokens, *, module):
    hidden, _ = module.apply(
        {"params": params}, module.apply({"params": params}, tokens, method="embed")
    )
    rows = module.apply({"params": params}, method="unembedding")
    return jnp.einsum("btd,vd->btv", hidden, rows, preferred_element_type=jnp.float32)


def abstract_params(module: Any) -> engine.Params:
    """Shapes of all parameters, boxed with their logical axes; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, 2, module.config.d_model), jnp.result_type(float))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(module.init, key, x)["params"]


def load_lm(
    lm: str,
    *,
    dtype: str = "float32",
    remat: bool = False,
    place: Callable[[str, np.ndarray], jax.Array] | None = None,
) -> LanguageModel:
    """A language model from disk or from the Hugging Face Hub.

    Args:
      lm: a folder in Hugging Face format, the id of a Hub repository, or "builtin".
      dtype: "float32", "bfloat16" or "float16", of weights and activations.
      remat: recompute layers in the backward pass: less memory, one more forward pass.
      place: puts one weight, given our path and the host array, on the devices; the
        default device where None.

    Raises:
      InputError: not there, no network for an id that is not in the cache, an unknown
        architecture, or weights that are damaged or do not fit the config.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    folder, revision = _find(lm)
    family, config = _config(folder)
    config = dataclasses.replace(config, remat=remat)
    module = family.MODEL(config)
    checkpoint = Checkpoint(folder)
    params = engine.from_hf(
        checkpoint,
        family.TABLE,
        family.sizes(config),
        nn.unbox(abstract_params(module)),
        dtype=DTYPES[dtype],
        ignored=family.ignored(config),
        place=place or (lambda path, array: jax.device_put(array)),
    )
    return LanguageModel(
        name=lm,
        module=module,
        config=config,
        params=params,
        tokenizer=_tokenizer(folder),
        dtype=DTYPES[dtype],
        fingerprint=checkpoint.fingerprint(),
        revision=revision,
    )


def export_lm(folder: pathlib.Path, module: Any, params: engine.Params, **extra) -> None:
    """Writes a folder that transformers loads: `load_lm` read backwards.

    Args:
      folder: made if it is not there.
      module: the Flax module of `params`.
      params: weights, written in their own dtype.
      **extra: further entries of config.json, such as token ids.
    """
    family = next(f for f in FAMILIES.values() if isinstance(module, f.MODEL))
    tensors = engine.to_hf(params, family.TABLE, family.sizes(module.config))
    dtype = str(next(iter(tensors.values())).dtype)
    config = {**family.config_to_hf(module.config), "dtype": dtype, **extra}
    save_checkpoint(folder, tensors, config)


def _find(lm: str) -> tuple[pathlib.Path, str | None]:
    if lm == "builtin":
        return BUILTIN, None
    folder = pathlib.Path(lm).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists() or lm.count("/") != 1 or lm.startswith((".", "/", "~")):
        raise InputError(
            f"no language model at {lm!r}: wanted a folder in Hugging Face format, "
            'the id of a Hub repository such as "EleutherAI/pythia-160m", or "builtin"'
        )
    import huggingface_hub as hub  # late, for those who never load from the Hub

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        path = pathlib.Path(hub.snapshot_download(lm, allow_patterns=wanted))
    except (
        hub.errors.HfHubHTTPError,
        hub.errors.LocalEntryNotFoundError,
        hub.errors.HFValidationError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{lm!r} is neither a folder nor in the Hub's cache, and could not be "
            f"downloaded; check the name and the network, or give a folder ({reason})"
        ) from error
    return path, path.name


def _config(folder: pathlib.Path) -> tuple[Any, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder} has no config.json; wanted a folder in Hugging Face format"
        )
    try:
        model_type = json.loads(path.read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{path} is of architecture {model_type!r}; known are {', '.join(FAMILIES)}"
        )
    import transformers  # late: it costs a second, which only loading should pay

    with _refusing(str(path)):
        hf = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = FAMILIES[model_type]
    return family, family.config_from_hf(hf)


def _tokenizer(folder: pathlib.Path) -> Any:
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json")):
        return None
    import transformers

    with _refusing(f"the tokenizer in {folder}"):
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns whatever transformers raises for the content of files into an `InputError`."""
    try:
        yield
    except Exception as error:  # validators of all kinds, each with its own class
        reason = " ".join(str(error).split())
        raise InputError(f"{what} cannot be used: {reason}") from error
