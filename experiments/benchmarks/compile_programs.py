"""The steps that compile_check.py compiles, with real sizes and shardings, but no weights.

The name of a program is like a command: a file under configs/, and overrides of fields, as
in "cram/llama_3_2_1b.py slice=v5e:2x2 cram.batch_size=16".
"""

import ast
import dataclasses
import functools
import importlib.util
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from launch import CONFIGS, Config

from memcomp import pretrain
from memcomp.compressors import training
from memcomp.compressors.batches import Examples
from memcomp.compressors.settings import settings_of
from memcomp.compressors.setup import Setup, finetuning, make_task, pretraining
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import lower_cram_chunk
from memcomp.cram.state import init_states
from memcomp.data.contexts import Contexts, Questions
from memcomp.data.ragged import Padded
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, abstract_params, load_lm
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.nn.flash import resolve_attention
from memcomp.sharding import BATCH, batch_sharding, make_mesh, param_shardings

from . import random_models

SIZES = CONFIGS / "full_size.json"


class Step(NamedTuple):
    """One step of a run, ready to be compiled.

    Attributes:
      lowered: `jax.stages.Lowered`.
      lm: name of the LM.
      num_params: number of parameters of the LM.
      rows: number of texts or windows of a step, on all devices.
      num_tokens: number of tokens of each.
      mesh: number of devices along each axis; texts are sharded over data and fsdp.
      smaller: advice which field to change for fewer texts or windows at once.
    """

    lowered: Any
    lm: str
    num_params: int
    rows: int
    num_tokens: int
    mesh: dict[str, int]
    smaller: str

    @property
    def parts(self) -> int:
        """Number of shards of the batch."""
        return math.prod(self.mesh[axis] for axis in BATCH)


def program_config(program: str) -> Config:
    """Returns the config that a program names, with its overrides.

    Raises:
      InputError: there is no such file or field.
    """
    name, *overrides = program.split()
    file, _, what = name.partition(":")
    if not (CONFIGS / file).is_file():
        raise InputError(f"there is no configs/{file}; give one such as cram/builtin.py")
    spec = importlib.util.spec_from_file_location("config", CONFIGS / file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*[what] * bool(what))
    if "slice" not in config:
        raise InputError(f"configs/{file} names no slice; give one with a step to compile")
    for override in overrides:
        path, _, value = override.partition("=")
        *sections, field = path.split(".")
        section = config
        try:
            for part in sections:
                section = section[part]
            section[field]  # noqa: B018  raises for an unknown field
            section[field] = _read(value)
        except (KeyError, TypeError) as error:
            raise InputError(f"configs/{file} does not take {override!r}") from error
    if config.dtype == "auto":
        config.dtype = "bfloat16"
    return config


def _read(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def lower(program: str, config: Config, devices: list[Any]) -> Step:
    """Lowers the step of a program for these devices."""
    kind = program.split("/")[0]
    if kind not in KINDS:
        raise InputError(f"{program!r} is in none of configs/{', '.join(KINDS)}")
    return KINDS[kind](config, devices)


def module_of(config: Config, device: Any) -> Any:
    """Makes the Flax module of `config.lm` at its real size, with the config's options."""
    if config.lm == "builtin":
        module = load_lm("builtin").module
    else:
        sizes = json.loads(SIZES.read_text())
        if config.lm not in sizes:
            raise InputError(f"configs/full_size.json has no {config.lm!r}; add its sizes")
        module = random_models.module_of(sizes[config.lm]["config"])
    options = {n: config[n] for n in ("remat",) if n in config}
    if "attention" in config and hasattr(module.config, "attention"):
        dtype = DTYPES[config.dtype]
        options["attention"] = resolve_attention(config.attention, device.platform, dtype)
    return module.clone(config=dataclasses.replace(module.config, **options))


def _cram(config: Config, devices: list[Any]) -> Step:
    """One step of `cram_chunk` with the longest text in every batch slot."""
    mesh, module = make_mesh(**config.mesh, devices=devices), module_of(config, devices[0])
    cfg = CramConfig(seed=config.seed, protocol=config.protocol, **config.cram)
    cfg = dataclasses.replace(cfg, steps_per_chunk=1)
    parts = _parts(mesh)
    rows = -(-cfg.batch_size // parts) * parts  # rounded up, as in the pool
    num_tokens = max(config.cram.num_tokens) * cfg.way.num_texts(cfg.num_memory)
    params = _weights(module, DTYPES[config.dtype], mesh)
    ids = jax.ShapeDtypeStruct((rows,), jnp.int32)
    init = functools.partial(init_states, module=module, cfg=cfg)
    first = jax.ShapeDtypeStruct((rows, cfg.num_memory), jnp.int32)
    states = jax.eval_shape(init, ids, params, tokens=first)
    tokens = jax.ShapeDtypeStruct((rows, num_tokens), jnp.int32)
    states, tokens, lengths = _with(batch_sharding(mesh), (states, tokens, ids))
    with jax.set_mesh(mesh):
        lowered = lower_cram_chunk(states, tokens, lengths, params, module=module, cfg=cfg)
    smaller = "lower cram.batch_size"
    return Step(
        lowered, config.lm, _num_params(params), rows, num_tokens, dict(mesh.shape), smaller
    )


def _icformer(config: Config, devices: list[Any]) -> Step:
    """One optimiser step of a compressor, with all sequences as long as they can be."""
    mesh, module = make_mesh(**config.mesh, devices=devices), module_of(config, devices[0])
    settings = settings_of(config.to_dict())
    task, cfg, dtype = make_task(settings, module), settings.train, DTYPES[config.dtype]
    lm_params = _weights(module, dtype, mesh)
    # The built-in tokenizer replaces that of the LM, which is not here, so the lengths of
    # templates may differ by some positions.
    tokenizer = load_lm("builtin").tokenizer
    lm = LanguageModel(
        config.lm, module, module.config, lm_params, tokenizer, dtype, fingerprint=""
    )
    rows = cfg.batch_size // cfg.accumulation
    if rows % _parts(mesh):
        raise InputError(
            f"the {rows} rows of a micro-batch cannot be divided by mesh.data x mesh.fsdp "
            f"= {_parts(mesh)}; give another train.accumulation or mesh"
        )
    made = STAGES[config.stage](Setup(settings, lm, task), rows)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((cfg.accumulation, *x.shape), x.dtype), made.batch
    )
    batch = _with(batch_sharding(mesh, axis=1), batch)
    state = training.abstract_state(task, cfg, mesh)
    with jax.set_mesh(mesh):
        lowered = training.jit_train_step(task, cfg, mesh).lower(state, lm_params, batch)
    return Step(
        lowered,
        config.lm,
        _num_params(lm_params),
        rows,
        config.context.length,
        dict(mesh.shape),
        "raise train.accumulation",
    )


def _longest_pretraining(setup: Setup, rows: int) -> Examples:
    settings = setup.settings
    sizes = settings.context.length, settings.objective.continuation
    goes_on = np.zeros(rows, bool)  # shapes do not depend on it
    return pretraining(setup).examples(Contexts(*(_full(rows, n) for n in sizes)), goes_on)


def _longest_finetuning(setup: Setup, rows: int) -> Examples:
    context, question = setup.settings.context, setup.settings.question
    sizes = context.length, question.prompt, question.answer
    return finetuning(setup).examples(Questions(*(_full(rows, n) for n in sizes)))


def _full(rows: int, length: int) -> Padded:
    tokens = np.zeros((rows, length), np.int32)
    return Padded(tokens, np.full(rows, length, np.int32))


def _pretrain(config: Config, devices: list[Any]) -> Step:
    """One optimiser step of a language model, on one device."""
    mesh, module = make_mesh(devices=devices), pretrain.make_model(**config.model)
    cfg = pretrain.TrainConfig(**config.train, dtype=config.dtype)
    whole = NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = functools.partial(pretrain.init_state, module=module, cfg=cfg)
    state = jax.eval_shape(init, key)
    shape = (1, cfg.batch_size, cfg.window + 1)  # a chunk of one step
    windows = jax.ShapeDtypeStruct(shape, jnp.uint16)
    state, windows = _with(whole, (state, windows))
    lowered = pretrain.train_chunk.lower(state, windows, module=module, cfg=cfg)
    num_params = _num_params(state.params)
    smaller = "lower train.batch_size"
    return Step(
        lowered,
        "its own",
        num_params,
        cfg.batch_size,
        cfg.window,
        dict(mesh.shape),
        smaller,
    )


def _weights(module: CausalLM, dtype: Any, mesh: Mesh) -> Any:
    boxed = abstract_params(module)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, dtype, sharding=where),
        nn.unbox(boxed),
        param_shardings(boxed, mesh),
    )


def _with(sharding: NamedSharding, tree: Any) -> Any:
    def put(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(put, tree)


def _parts(mesh: Mesh) -> int:
    return int(np.prod([mesh.shape[axis] for axis in BATCH]))


def _num_params(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


STAGES = {
    "pretrain": _longest_pretraining,
    "both": _longest_pretraining,
    "finetune": _longest_finetuning,
}
KINDS: dict[str, Callable[..., Step]] = {
    "cram": _cram,
    "icformer": _icformer,
    "pretrain": _pretrain,
}
