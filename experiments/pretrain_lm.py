r"""Trains a small Llama from text and writes it as a Hugging Face folder.

  python experiments/pretrain_lm.py --config configs/pretrain/small.py \
      --config.texts=FOLDER --config.valid=FOLDER --workdir runs/small

FOLDER holds .txt files, one document each. Without flags a tiny model is trained for
about a minute on the documentation that comes with Python itself.

A run that was killed resumes from its last checkpoint when the same command is given
again, with the same batches. On a CPU the weights are then those of a run never
stopped, bit for bit. A GPU adds up the gradients of repeated tokens in any order; for
exactness there, run with XLA_FLAGS=--xla_gpu_deterministic_ops=true.

Whitespace is collapsed in all texts, as it is in those that memcomp compresses.
"""

import functools
import importlib
import json
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from launch import Config, launch

from memcomp import pretrain
from memcomp.data.training_texts import whole_texts, whole_texts_sha256
from memcomp.data.windows import cached_tokens, check_window, flat_tokens, windows
from memcomp.disk import make_folder, path_of, writing
from memcomp.distributed import say
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, abstract_params, export_lm, load_lm
from memcomp.lm.perplexity import Perplexity, bits_per_byte
from memcomp.lm.protocol import LanguageModel
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.ranges import check_count, check_number, check_seed
from memcomp.runs.files import (
    SUMMARY,
    Record,
    claim_workdir,
    write_whole,
)
from memcomp.runs.training import Intervals, Trained
from memcomp.runs.training import train as train_model

DEFAULT_WORKDIR = "runs/pretrain_lm"
TOKENS = "tokens.npy"
ADVICE = "lower train.learning_rate or lengthen train.warmup"


class Run(NamedTuple):
    """What the parts of a run share; nothing in it changes.

    Attributes:
      folder: the workdir.
      valid: whole texts to evaluate on.
    """

    folder: epath.Path
    config: Config
    cfg: pretrain.TrainConfig
    module: Llama
    tokenizer: tokenizers.Tokenizer
    valid: list[str]


def main(config: Config, workdir: str | None) -> None:
    """Trains, evaluates and writes the model; see the top of the file."""
    if not config.texts:
        raise InputError("there is no text to train on; give --config.texts=FOLDER")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    check(config)
    cfg = pretrain.TrainConfig(**config.train, dtype=config.dtype)
    module = build_model(config.model)
    if cfg.window > module.config.max_positions:
        raise InputError(
            f"train.window {cfg.window} is longer than model.max_positions "
            f"{module.config.max_positions}; lower the one or raise the other"
        )
    folder = path_of(workdir or DEFAULT_WORKDIR)
    valid = whole_texts(config.valid) if config.valid else []
    made = None
    if not (folder / TOKENS).exists():
        # Before the workdir is claimed, so that texts of no use do not bind it.
        made = prepare(config)
        check_window(len(made[1]), cfg.window)
    digests = {name: whole_texts_sha256(config[name]) for name in ("texts", "valid")}
    content = {name: {"sha256": one} if one else {} for name, one in digests.items()}
    folder = claim_workdir(folder, config.to_dict(), about() | content)
    tokenizer, tokens = kept(made, folder, config.model.max_positions)
    run = Run(folder, config, cfg, module, tokenizer, valid)
    finish(run, train(run, tokens))


def check(config: Config) -> None:
    """Raises `InputError` for numbers with which nothing could be trained."""
    check_seed("seed", config.seed)
    least = dict(steps_per_chunk=1, save_every=1, evaluate_every=1)
    wanted = {name: (config[name], value) for name, value in least.items()}
    sizes = {k: v for k, v in config.model.items() if isinstance(v, int)}
    wanted |= {f"model.{name}": (value, 1) for name, value in sizes.items()}
    # The tokenizer has all bytes, and what begins a document.
    wanted["model.vocab_size"] = (config.model.vocab_size, 257)
    for name, (value, fewest) in wanted.items():
        check_count(name, value, fewest)
    check_number("model.rope_theta", config.model.rope_theta, above=0)
    if config.model.head_dim % 2:
        raise InputError(
            f"model.head_dim is {config.model.head_dim}; give an even number, since rotary "
            "positions turn pairs"
        )


def build_model(model: Config) -> Llama:
    """The Flax module of the config's section `model`."""
    sizes = model.to_dict()
    rotary = Rotary(sizes["head_dim"], sizes.pop("rope_theta"))
    return Llama(LlamaConfig(**sizes, rotary=rotary, tied_embeddings=True))


def about() -> dict[str, Any]:
    """Versions and devices, for config.json."""
    names = ("jax", "flax", "optax", "orbax.checkpoint", "grain", "tokenizers", "numpy")
    versions = {name: importlib.import_module(name).__version__ for name in names}
    devices = [device.device_kind for device in jax.devices()]
    return {"versions": versions, "devices": devices}


def prepare(config: Config) -> tuple[tokenizers.Tokenizer, np.ndarray]:
    """Tokenizer and tokens of the training texts; nothing is written yet."""
    texts, size = whole_texts(config.texts), config.model.vocab_size
    say(f"training a tokenizer of {size} tokens")
    tokenizer = pretrain.train_tokenizer(texts, size)
    say("tokenizing the texts")
    return tokenizer, flat_tokens(texts, tokenizer, pretrain.START_ID)


def kept(
    made: tuple[tokenizers.Tokenizer, np.ndarray] | None,
    folder: epath.Path,
    max_positions: int,
) -> tuple[tokenizers.Tokenizer, np.ndarray]:
    """Tokenizer and tokens as the workdir has them; written if they were made anew."""
    path = folder / "tokenizer"
    if made is not None:
        pretrain.save_tokenizer(made[0], path, max_positions)
    tokenizer = tokenizers.Tokenizer.from_str((path / "tokenizer.json").read_text())

    def tokens() -> np.ndarray:
        assert made is not None  # or the file is there
        return made[1]

    return tokenizer, cached_tokens(folder / TOKENS, tokens)


def train(run: Run, tokens: np.ndarray) -> pretrain.TrainState:
    """The state after the last step; resumes from the last checkpoint if there is one."""
    cfg, config, module = run.cfg, run.config, run.module
    batches = windows(
        tokens,
        length=cfg.window,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=config.seed,
    )
    key = jax.random.key(config.seed)
    init = functools.partial(pretrain.init_state, key, module=module, cfg=cfg)
    trained = Trained(
        init=init,
        like=init,
        batches=batches.batch(config.steps_per_chunk),
        advance=functools.partial(pretrain.train_chunk, module=module, cfg=cfg),
        figures=functools.partial(figures, cfg),
        evaluate=functools.partial(valid_scores, run),
        shown=shown,
        advice=ADVICE,
    )
    intervals = Intervals(
        num_steps=cfg.num_steps,
        log_every=config.steps_per_chunk,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
    )
    size = sum(x.size for x in jax.tree.leaves(abstract_params(module)))
    targets = cfg.num_steps * cfg.window * cfg.batch_size
    say(
        f"{size:,} parameters ({2 * size / 1e6:.1f} MB in bfloat16), {targets:,} tokens, "
        f"which are {targets / len(tokens):.1f} passes over the texts, "
        f"{cfg.num_steps:,} steps in {cfg.dtype} on {jax.devices()[0].device_kind}"
    )
    return train_model(trained, intervals, run.folder)


def figures(
    cfg: pretrain.TrainConfig, step: int, metrics: dict[str, np.ndarray], seconds: float
) -> Record:
    """What the log says of the steps up to `step`, which took so many seconds."""
    losses, step_tokens = metrics["loss"], cfg.window * cfg.batch_size
    rate: Any = pretrain.schedule(cfg, cfg.learning_rate)(step - 1)
    return {
        "tokens": step * step_tokens,
        "loss_nats": float(losses.mean(dtype=np.float64)),
        "grad_norm": float(metrics["grad_norm"].mean(dtype=np.float64)),
        "learning_rate": float(rate),
        "tokens_per_second": len(losses) * step_tokens / seconds,
    }


def valid_scores(run: Run, state: pretrain.TrainState) -> Record:
    """Scores of the validation texts; nothing where there are none."""
    return scores(evaluate(run, as_lm(run, state.params))) if run.valid else {}


def shown(record: Record) -> list[str]:
    """The losses and the speed of a record, for the terminal."""
    said = [f"loss {record['loss_nats']:.3f}"]
    said.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if "valid_bits_per_byte" in record:
        said.append(f"valid {record['valid_bits_per_byte']:.3f} bits/byte")
    return said


def as_lm(run: Run, params: Any) -> LanguageModel:
    """The model in training, in the dtype of its activations."""
    transformers = importlib.import_module("transformers")
    dtype = DTYPES[run.cfg.dtype]
    return LanguageModel(
        name=str(run.folder),
        module=run.module,
        config=run.module.config,
        params=jax.tree.map(lambda x: x.astype(dtype), params),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=run.tokenizer, bos_token=pretrain.START
        ),
        dtype=dtype,
        fingerprint="",
    )


def evaluate(run: Run, lm: LanguageModel) -> Perplexity:
    """Perplexity on the validation texts, in windows as long as those of training."""
    return bits_per_byte(lm, run.valid, window=run.cfg.window)


def scores(result: Perplexity) -> dict[str, float]:
    """Its entries of log.jsonl and summary.json."""
    return {
        "valid_nats_per_token": result.nats_per_token,
        "valid_bits_per_byte": result.bits_per_byte,
    }


def finish(run: Run, state: pretrain.TrainState) -> None:
    """Writes model/ and summary.json; what is scored is the folder, read again."""
    params = jax.tree.map(lambda x: np.asarray(x.astype(jnp.bfloat16)), state.params)
    summary: dict[str, Any] = {
        "num_params": sum(x.size for x in jax.tree.leaves(params)),
        "num_steps": run.cfg.num_steps,
    }
    target = run.folder / "model"
    make_folder(target)
    with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as name:
        made = pathlib.Path(name)
        start = pretrain.START_ID
        export_lm(made, run.module, params, bos_token_id=start, eos_token_id=start)
        for file in (run.folder / "tokenizer").iterdir():
            (made / file.name).write_bytes(file.read_bytes())
        if run.valid:
            result = evaluate(run, load_lm(name))
            summary |= {**scores(result), "valid_num_tokens": result.num_tokens}
            summary["valid_num_bytes"] = result.num_bytes
        for file in made.iterdir():
            write_whole(target / file.name, file.read_bytes())
    write_whole(run.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    say(f"wrote {target}: " + ", ".join(f"{k} {v}" for k, v in summary.items()))


if __name__ == "__main__":
    launch(main, "pretrain/tiny.py")
