"""Trains a language model in a workdir, with the loop of `memcomp.runs.training`."""

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

from memcomp import pretrain
from memcomp.data.windows import windows
from memcomp.disk import make_folder, write_whole, writing
from memcomp.distributed import say
from memcomp.lm.load import DTYPES, abstract_params, export_lm, load_lm
from memcomp.lm.perplexity import Perplexity, bits_per_byte
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.runs.files import SUMMARY, Record
from memcomp.runs.training import Intervals, Trained
from memcomp.runs.training import train as train_model

ADVICE = "lower train.learning_rate or lengthen train.warmup"


class Run(NamedTuple):
    """Settings and inputs of a run.

    Attributes:
      folder: the workdir, which contains tokenizer/.
      seed: seed of the weights and of the order of windows.
      intervals: see `Intervals`; `log_every` is also the number of steps of a jitted chunk.
      cfg: how the model is trained.
      module: the Flax module.
      tokenizer: tokenizer of the model.
      valid: whole texts to evaluate on.
    """

    folder: epath.Path
    seed: int
    intervals: Intervals
    cfg: pretrain.TrainConfig
    module: CausalLM
    tokenizer: tokenizers.Tokenizer
    valid: list[str]


def train(run: Run, tokens: np.ndarray) -> pretrain.TrainState:
    """Trains to the last step and returns the state; resumes from the last checkpoint."""
    cfg, module = run.cfg, run.module
    batches = windows(
        tokens,
        length=cfg.window,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=run.seed,
    )
    key = jax.random.key(run.seed)
    init = functools.partial(pretrain.init_state, key, module=module, cfg=cfg)
    trained = Trained(
        init=init,
        like=init,
        batches=batches.batch(run.intervals.log_every),
        advance=functools.partial(pretrain.train_chunk, module=module, cfg=cfg),
        figures=functools.partial(_figures, cfg),
        evaluate=functools.partial(_valid_scores, run),
        shown=_shown,
        advice=ADVICE,
    )
    size = sum(x.size for x in jax.tree.leaves(abstract_params(module)))
    targets = cfg.num_steps * cfg.window * cfg.batch_size
    say(
        f"{size:,} parameters ({2 * size / 1e6:.1f} MB in bfloat16), {targets:,} tokens, "
        f"which are {targets / len(tokens):.1f} passes over the texts, "
        f"{cfg.num_steps:,} steps in {cfg.dtype} on {jax.devices()[0].device_kind}"
    )
    return train_model(trained, run.intervals, run.folder)


def _figures(
    cfg: pretrain.TrainConfig, step: int, metrics: dict[str, np.ndarray], seconds: float
) -> Record:
    """Returns the log's record of some steps up to `step`, which took `seconds`."""
    losses, step_tokens = metrics["loss"], cfg.window * cfg.batch_size
    rate: Any = pretrain.schedule(cfg, cfg.learning_rate)(step - 1)
    return {
        "tokens": step * step_tokens,
        "loss_nats": float(losses.mean(dtype=np.float64)),
        "grad_norm": float(metrics["grad_norm"].mean(dtype=np.float64)),
        "learning_rate": float(rate),
        "tokens_per_second": len(losses) * step_tokens / seconds,
    }


def _valid_scores(run: Run, state: pretrain.TrainState) -> Record:
    """Returns the scores on the validation texts; an empty record if there are none."""
    return _scores(_evaluate(run, _as_lm(run, state.params))) if run.valid else {}


def _shown(record: Record) -> list[str]:
    """Returns the losses and the throughput of a record, for the terminal."""
    said = [f"loss {record['loss_nats']:.3f}"]
    said.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if "valid_bits_per_byte" in record:
        said.append(f"valid {record['valid_bits_per_byte']:.3f} bits/byte")
    return said


def _as_lm(run: Run, params: Any) -> LanguageModel:
    """Returns the model in training, with parameters in the dtype of its activations."""
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


def _evaluate(run: Run, lm: LanguageModel) -> Perplexity:
    """Perplexity on the validation texts, in windows as long as those of training."""
    return bits_per_byte(lm, run.valid, window=run.cfg.window)


def _scores(result: Perplexity) -> dict[str, float]:
    """Returns the result's entries for log.jsonl and summary.json."""
    return {
        "valid_nats_per_token": result.nats_per_token,
        "valid_bits_per_byte": result.bits_per_byte,
    }


def finish(run: Run, state: pretrain.TrainState) -> None:
    """Writes model/ and summary.json, with scores of the exported model after reloading."""
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
            result = _evaluate(run, load_lm(name))
            summary |= {**_scores(result), "valid_num_tokens": result.num_tokens}
            summary["valid_num_bytes"] = result.num_bytes
        for file in made.iterdir():
            write_whole(target / file.name, file.read_bytes())
    write_whole(run.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    say(f"wrote {target}: " + ", ".join(f"{k} {v}" for k, v in summary.items()))
