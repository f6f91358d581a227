r"""Trains a small Llama from text and writes it as a Hugging Face folder.

  python experiments/pretrain_lm.py --config configs/pretrain/small.py \
      --config.texts=FOLDER --config.valid=FOLDER --workdir runs/small

FOLDER holds .txt files, one document each. Without flags a tiny model is trained for
about a minute on the documentation that comes with Python itself.

A run that was killed goes on from its last checkpoint when the same command is given
again, with the same batches. On a CPU the weights are then those of a run never
stopped, bit for bit. A GPU adds up the gradients of repeated tokens in any order; for
exactness there, run with XLA_FLAGS=--xla_gpu_deterministic_ops=true.

Whitespace is collapsed in all texts, as it is in those that memcomp compresses.
"""

import functools
import importlib
import json
import pathlib
import pydoc_data.topics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from launch import launch
from ml_collections import config_dict
from scalars import scalar_writer
from tqdm import tqdm

from memcomp import pretrain
from memcomp.checkpoints import Checkpoints
from memcomp.data.texts import read_texts
from memcomp.data.windows import cached_tokens, flat_tokens, windows
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.evaluation.perplexity import Perplexity, bits_per_byte
from memcomp.lm import DTYPES, LanguageModel, export_lm, load_lm
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.results import (
    SUMMARY,
    append_records,
    claim_workdir,
    read_records,
    write_whole,
)

DEFAULT_WORKDIR = "runs/pretrain_lm"
TOKENS = "tokens.npy"
SECONDS_BETWEEN_LINES = 30  # where there is no terminal for a progress bar
PYTHON = ("python/train", "python/valid")
ADVICE = "lower train.learning_rate or lengthen train.warmup"


class Run(NamedTuple):
    """What the parts of a run share; nothing in it changes.

    Attributes:
      folder: the workdir.
      valid: whole texts to evaluate on.
    """

    folder: epath.Path
    config: config_dict.ConfigDict
    train: pretrain.TrainConfig
    module: Llama
    tokenizer: tokenizers.Tokenizer
    valid: list[str]


def main(config: config_dict.ConfigDict, workdir: str | None) -> None:
    """Trains, evaluates and writes the model; see the top of the file."""
    if config.texts is None:
        raise InputError("there is no text to train on; give --config.texts=FOLDER")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    train = pretrain.TrainConfig(**config.train, dtype=config.dtype)
    module = build_model(config.model)
    if train.window > module.config.max_positions:
        raise InputError(
            f"train.window {train.window} is longer than model.max_positions "
            f"{module.config.max_positions}; lower the one or raise the other"
        )
    folder = epath.Path(workdir or DEFAULT_WORKDIR)
    valid = documents(config.valid) if config.valid else []
    texts = functools.cache(lambda: documents(config.texts))
    if not (folder / TOKENS).exists():
        texts()  # before the workdir is claimed, so that a wrong name does not bind it
    folder = claim_workdir(folder, config.to_dict(), about())
    tokenizer, tokens = prepare(config, folder, texts)
    run = Run(folder, config, train, module, tokenizer, valid)
    state = train_model(run, tokens)
    finish(run, state)


def build_model(model: config_dict.ConfigDict) -> Llama:
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


def documents(source: str) -> list[str]:
    """Whole texts of "python/train", "python/valid", or any source of `read_texts`.

    The first two are the topics of Python's own help(), one in ten of them for valid.
    """
    if source not in PYTHON:
        return [text for _, text in read_texts(source)]
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    held_out = source == "python/valid"
    chosen = [text for i, text in enumerate(topics) if (i % 10 == 9) == held_out]
    return [" ".join(text.split()) for text in chosen]


def prepare(
    config: config_dict.ConfigDict, folder: epath.Path, texts: Callable[[], list[str]]
) -> tuple[tokenizers.Tokenizer, np.ndarray]:
    """Tokenizer and tokens of the training texts, made once for each workdir."""
    saved = folder / "tokenizer" / "tokenizer.json"
    if not saved.exists():
        say(f"training a tokenizer of {config.model.vocab_size} tokens")
        tokenizer = pretrain.train_tokenizer(texts(), config.model.vocab_size)
        pretrain.save_tokenizer(tokenizer, saved.parent, config.model.max_positions)
    tokenizer = tokenizers.Tokenizer.from_str(saved.read_text())

    def make() -> np.ndarray:
        say("tokenizing the texts")
        return flat_tokens(texts(), tokenizer, pretrain.START_ID)

    return tokenizer, cached_tokens(folder / TOKENS, make)


def train_model(run: Run, tokens: np.ndarray) -> pretrain.TrainState:
    """The state after the last step, gone on with from the last checkpoint if any."""
    train, every = run.train, run.config.steps_per_chunk
    batches = windows(
        tokens,
        length=train.window,
        batch_size=train.batch_size,
        num_batches=train.num_steps,
        seed=run.config.seed,
    ).batch(every)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterator = iter(batches.to_iter_dataset(options))
    key = jax.random.key(run.config.seed)
    state = pretrain.init_state(key, module=run.module, cfg=train)
    size = sum(x.size for x in jax.tree.leaves(state.params))
    targets = train.num_steps * train.window * train.batch_size
    say(
        f"{size:,} parameters ({2 * size / 1e6:.1f} MB in bfloat16), {targets:,} tokens, "
        f"which are {targets / len(tokens):.1f} passes over the texts, "
        f"{train.num_steps:,} steps in {train.dtype} on {jax.devices()[0].device_kind}"
    )
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            state = checkpoints.restore(state, iterator)
            say(f"going on from step {int(state.step):,}")
        with Log(run, int(state.step)) as log:
            for chunk in iterator:
                before = int(state.step)
                state, metrics = pretrain.train_chunk(
                    state, chunk, module=run.module, cfg=train
                )
                # A checkpoint of a run that has failed would only fail again.
                log.add(before, jax.device_get(metrics), state.params)
                step = before + len(chunk)
                if crossed(run.config.save_every, before, step, train.num_steps):
                    checkpoints.save(step, state, iterator)
    return state


def crossed(every: int, before: int, step: int, last: int) -> bool:
    """Whether a multiple of `every`, or the end, lies after `before` and up to `step`."""
    return step // every > before // every or step == last


class Log:
    """log.jsonl, TensorBoard scalars and what the user sees of a run in training."""

    def __init__(self, run: Run, step: int):
        self.run = run
        self.file = run.folder / "log.jsonl"
        # What came after the checkpoint will be made, and written, again.
        kept = [r for r in read_records(self.file) if r["step"] <= step]
        write_whole(self.file, "".join(json.dumps(r) + "\n" for r in kept))
        # The clock of the first chunk also counts the compilation.
        self.clock = self.line = time.monotonic()
        self.writer = scalar_writer(run.folder / "metrics", purge_step=step + 1)
        self.bar = tqdm(
            total=run.train.num_steps,
            initial=step,
            unit="step",
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
        self.bar.close()

    def add(self, before: int, metrics: dict[str, np.ndarray], params: Any) -> None:
        """Logs a chunk of steps that began after step `before`, and evaluates if due.

        Raises:
          InputError: a loss that is not finite.
        """
        run, train = self.run, self.run.train
        check_finite(before, metrics["loss"])
        step = before + len(metrics["loss"])
        chunk_tokens = len(metrics["loss"]) * train.window * train.batch_size
        rate = pretrain.schedule(train, train.learning_rate)(step - 1)
        record = {
            "step": step,
            "tokens": step * train.window * train.batch_size,
            "loss_nats": float(metrics["loss"].mean(dtype=np.float64)),
            "grad_norm": float(metrics["grad_norm"].mean(dtype=np.float64)),
            "learning_rate": float(rate),
            "tokens_per_second": chunk_tokens / (time.monotonic() - self.clock),
        }
        every = run.config.evaluate_every
        due = run.valid and crossed(every, before, step, train.num_steps)
        if due:
            record |= scores(evaluate(run, as_lm(run, params)))
        append_records(self.file, [record])
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)
        self.show(record, bool(due))
        self.clock = time.monotonic()

    def show(self, record: dict[str, Any], now: bool) -> None:
        """The bar on a terminal; else a line, `now` or when it is time for one."""
        parts = [f"loss {record['loss_nats']:.3f}"]
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        if "valid_bits_per_byte" in record:
            parts.append(f"valid {record['valid_bits_per_byte']:.3f} bits/byte")
        self.bar.set_postfix_str(", ".join(parts))
        self.bar.update(record["step"] - self.bar.n)
        if not self.bar.disable:
            return
        if now or time.monotonic() - self.line > SECONDS_BETWEEN_LINES:
            say(f"step {record['step']:,}/{self.run.train.num_steps:,}: {', '.join(parts)}")
            self.line = time.monotonic()


def check_finite(before: int, losses: np.ndarray, advice: str = ADVICE) -> None:
    """Raises `InputError` that names the first step whose loss is not finite.

    Args:
      before: steps before the first of `losses`.
      losses: one a step.
      advice: what in the config would help.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise InputError(
            f"the loss is {losses[bad[0]]} at step {before + bad[0] + 1}; {advice}, in a "
            "new --workdir"
        )


def as_lm(run: Run, params: Any) -> LanguageModel:
    """The model in training, in the dtype of its activations."""
    transformers = importlib.import_module("transformers")
    dtype = DTYPES[run.train.dtype]
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
    return bits_per_byte(lm, run.valid, window=run.train.window)


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
        "num_steps": run.train.num_steps,
    }
    target = run.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
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


def say(line: str) -> None:
    """A line that does not tear the progress bar, once for all processes."""
    if is_first():
        tqdm.write(line, file=sys.stderr)


if __name__ == "__main__":
    launch(main, "pretrain/tiny.py")
