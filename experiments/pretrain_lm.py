r"""Trains a small Llama from text and writes it as a Hugging Face folder.

  python experiments/pretrain_lm.py --config configs/pretrain/small.py \
      --config.texts=FOLDER --config.valid=FOLDER --workdir runs/small

FOLDER holds .txt files, one document each. Without flags, a tiny model is trained for
about a minute on the documentation that comes with Python.

The same command resumes a killed run from its last checkpoint, with the same batches. On a
CPU, the weights then equal those of a run without interruption, bit for bit. A GPU adds up
the gradients of repeated tokens in any order; for exactness there, run with
XLA_FLAGS=--xla_gpu_deterministic_ops=true.

Whitespace is collapsed in all texts, as in the texts that memcomp compresses.
"""

import jax
import numpy as np
import tokenizers
from etils import epath
from launch import Config, launch

from memcomp import pretrain
from memcomp.data.training_texts import whole_texts, whole_texts_sha256
from memcomp.data.windows import cached_tokens, check_window, flat_tokens
from memcomp.disk import path_of
from memcomp.distributed import say
from memcomp.errors import InputError
from memcomp.ranges import check_count, check_number, check_seed
from memcomp.runs.cramming import environment
from memcomp.runs.files import claim_workdir
from memcomp.runs.pretraining import Run, finish, train
from memcomp.runs.training import Intervals

DEFAULT_WORKDIR = "runs/pretrain_lm"
TOKENS = "tokens.npy"


def main(config: Config, workdir: str | None) -> None:
    """Trains, evaluates and writes the model."""
    if not config.texts:
        raise InputError("there is no text to train on; give --config.texts=FOLDER")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    check(config)
    cfg = pretrain.TrainConfig(**config.train, dtype=config.dtype)
    module = pretrain.make_model(**config.model)
    if cfg.window > module.config.max_positions:
        raise InputError(
            f"train.window {cfg.window} is longer than model.max_positions "
            f"{module.config.max_positions}; lower the one or raise the other"
        )
    folder = path_of(workdir or DEFAULT_WORKDIR)
    valid = whole_texts(config.valid) if config.valid else []
    made = None
    if not (folder / TOKENS).exists():
        # Done before the workdir is claimed, so that unusable texts do not claim it.
        made = prepare(config)
        check_window(len(made[1]), cfg.window)
    digests = {name: whole_texts_sha256(config[name]) for name in ("texts", "valid")}
    content = {name: {"sha256": one} if one else {} for name, one in digests.items()}
    folder = claim_workdir(
        folder,
        config.to_dict(),
        environment("orbax-checkpoint", "grain", "tokenizers") | content,
    )
    tokenizer, tokens = kept(made, folder, config.model.max_positions)
    intervals = Intervals(
        num_steps=cfg.num_steps,
        log_every=config.steps_per_chunk,
        save_every=config.save_every,
        evaluate_every=config.evaluate_every,
    )
    run = Run(folder, config.seed, intervals, cfg, module, tokenizer, valid)
    finish(run, train(run, tokens))


def check(config: Config) -> None:
    """Raises `InputError` for numbers with which no model can be trained."""
    check_seed("seed", config.seed)
    least = dict(steps_per_chunk=1, save_every=1, evaluate_every=1)
    wanted = {name: (config[name], value) for name, value in least.items()}
    sizes = {k: v for k, v in config.model.items() if isinstance(v, int)}
    wanted |= {f"model.{name}": (value, 1) for name, value in sizes.items()}
    # The tokenizer has all 256 bytes, and the token that begins a document.
    wanted["model.vocab_size"] = (config.model.vocab_size, 257)
    for name, (value, fewest) in wanted.items():
        check_count(name, value, fewest)
    check_number("model.rope_theta", config.model.rope_theta, above=0)
    if config.model.head_dim % 2:
        raise InputError(
            f"model.head_dim is {config.model.head_dim}; give an even number, since rotary "
            "positions turn pairs"
        )


def prepare(config: Config) -> tuple[tokenizers.Tokenizer, np.ndarray]:
    """Makes tokenizer and tokens of the training texts; writes nothing."""
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
    """Writes tokenizer and tokens to the workdir, if new; returns them as read from it."""
    path = folder / "tokenizer"
    if made is not None:
        pretrain.save_tokenizer(made[0], path, max_positions)
    tokenizer = tokenizers.Tokenizer.from_str((path / "tokenizer.json").read_text())

    def tokens() -> np.ndarray:
        assert made is not None  # or the file is there
        return made[1]

    return tokenizer, cached_tokens(folder / TOKENS, tokens)


if __name__ == "__main__":
    launch(main, "pretrain/tiny.py")
