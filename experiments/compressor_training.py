"""The loop of experiments/icformer.py: steps, checkpoints, evaluation, log."""

import contextlib
import json
import time
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from compressor_parts import (
    COMPRESSOR,
    FRESH,
    Data,
    Parts,
    finetuning_data,
    load_start,
    pretraining_data,
    train_config,
)
from etils import epath
from launch import Config, Stopped, is_told_to_stop
from profiling import Profile
from training_log import LOG, Log, check_finite, crossed, say

from memcomp.compressors import training
from memcomp.compressors.batches import Examples
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.registry import save_compressor
from memcomp.compressors.training import TrainConfig, TrainState
from memcomp.disk import make_folder
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.lm.decode import check_sampling
from memcomp.ranges import check_count, check_seed
from memcomp.report.digest_figures import learning_curves
from memcomp.runs.checkpoints import Checkpoints
from memcomp.runs.files import (
    SUMMARY,
    Record,
    read_records,
    write_whole,
)
from memcomp.sharding import put_batch
from memcomp.studies import answers as compressed

DATA = {"pretrain": pretraining_data, "finetune": finetuning_data}


class Run(NamedTuple):
    """What the parts of a run share; nothing in it changes."""

    folder: epath.Path
    config: Config
    cfg: TrainConfig
    parts: Parts
    data: Data


def check(config: Config) -> None:
    """Raises `InputError` for settings with which a run cannot be resumed."""
    train_config(config)
    check_seed("seed", config.seed)
    least = dict(num_valid=0, log_every=1, save_every=1, evaluate_every=1)
    for name, value in least.items():
        check_count(name, config[name], value)
    for name in ("save_every", "evaluate_every"):
        if config[name] % config.log_every:
            raise InputError(
                f"{name} is {config[name]}; give a multiple of log_every = "
                f"{config.log_every}, so that a run that goes on logs the same lines"
            )
    check_sampling(config.decode.temperature, config.decode.top_p)
    if config.decode.num_texts < 0:
        raise InputError(f"decode.num_texts is {config.decode.num_texts}; give 0 or more")


def train(config: Config, parts: Parts, objective: Any, folder: epath.Path) -> None:
    """Trains, resuming from the last checkpoint if there is one; writes the compressor."""
    cfg = train_config(config)
    data = DATA[config.stage](config, parts, objective, folder)
    run = Run(folder, config, cfg, parts, data)
    state = run_steps(run)
    trained = as_trained(parts, state)
    save_compressor(folder / COMPRESSOR, trained)
    if is_first():
        summarise_run(run, num_params(state))


def summarise_run(run: Run, num_params: int) -> None:
    """Writes summary.json and the learning curves, from the log."""
    folder, config = run.folder, run.config
    summary = {"num_steps": run.cfg.num_steps, "num_params": num_params}
    summary |= run.data.counts
    lines = read_records(folder / LOG)
    drawn = learning_curves({config.compressor: lines})
    make_folder(folder / "figures")
    write_whole(folder / "figures" / "curves.csv", drawn.csv())
    write_whole(folder / "figures" / "curves.png", drawn.png())
    last = lines[-1]  # which evaluated the last step
    summary |= {name: last[name] for name in last if name.startswith("valid_")}
    write_whole(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    said = ", ".join(f"{name} {value:.4g}" for name, value in summary.items())
    say(f"wrote {folder / COMPRESSOR}: {said}")


def run_steps(run: Run) -> TrainState:
    """The state after the last step."""
    config, cfg, parts = run.config, run.cfg, run.parts
    task, mesh = parts.task, parts.mesh
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterator = iter(run.data.batches.to_iter_dataset(options))
    step_once = training.jit_train_step(task, cfg, mesh)
    with jax.set_mesh(mesh), Checkpoints(run.folder / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            like = training.abstract_state(task, cfg, mesh)
            state = checkpoints.restore(like, iterator)
            say(f"going on from step {int(state.step):,}")
        else:
            state = first_state(run)
        # The clock of the first lines also counts the compilation.
        waiting, clock = [], time.monotonic()
        with open_log(run, state) as log, Profile(run.folder) as profile:
            for step, batch in enumerate(iterator, start=int(state.step) + 1):
                batch = put_batch(batch, mesh, axis=1)
                state, metrics = step_once(state, parts.lm.params, batch)
                waiting.append(metrics)
                profile.step(metrics)
                logged = crossed(config.log_every, step - 1, step, cfg.num_steps)
                if logged:
                    # A checkpoint of a run that has failed would only fail again.
                    seconds = time.monotonic() - clock
                    record = measured(run, step, jax.device_get(waiting), state, seconds)
                    if log:
                        add_to_log(log, record)
                    waiting, clock = [], time.monotonic()
                told = logged and is_told_to_stop()
                if told or crossed(config.save_every, step - 1, step, cfg.num_steps):
                    checkpoints.save(step, state, iterator)
                if told and step < cfg.num_steps:
                    raise Stopped
    return state


def first_state(run: Run) -> TrainState:
    """Fresh weights, or those of another run."""
    parts = run.parts
    state = training.init_state(run.config.seed, parts.task, run.cfg, parts.mesh)
    if run.config.start in ("", FRESH):
        return state
    return training.with_params(state, load_start(run.config, parts).params)


def as_trained(parts: Parts, state: TrainState) -> TrainedCompressor:
    """The weights to use, as they are kept."""
    lm = parts.lm
    return TrainedCompressor(parts.task.compressor, state.best, lm.name, lm.fingerprint)


def open_log(run: Run, state: TrainState) -> contextlib.AbstractContextManager[Log | None]:
    """The log, which only the first process has; says what is trained."""
    cfg, mesh = run.cfg, run.parts.mesh
    say(
        f"{num_params(state):,} trained parameters, {cfg.num_steps:,} steps of "
        f"{cfg.batch_size} rows in {cfg.dtype} on {mesh.size} x "
        f"{jax.devices()[0].device_kind}"
    )
    if not is_first():
        return contextlib.nullcontext()
    return Log(run.folder, num_steps=cfg.num_steps, step=int(state.step))


def num_params(state: TrainState) -> int:
    """How many numbers are trained."""
    return sum(x.size for x in jax.tree.leaves(state.params))


def evaluate(run: Run, state: TrainState) -> dict[str, float]:
    """Losses on what is held out, and how free-running answers compare with it.

    Losses are means over all that is scored in training, EOS included.
    """
    parts, found = run.parts, {}
    for name, examples in run.data.valid.items():
        records = compressed.teacher_forced(
            state.best,
            parts.lm,
            examples.batch,
            parts.task,
            # As in training, for which there is memory, and which fits the mesh.
            batch_size=run.cfg.batch_size // run.cfg.accumulation,
        )
        counts = [record["num_tokens"] for record in records]
        scores = {
            key: float(np.average([record[key] for record in records], weights=counts))
            for key in ("nats_per_token", "accuracy")
        }
        if name != "continuation":  # which may go on in many ways
            scores |= free_running(run, state, examples)
        found |= {f"valid_{name}_{key}": value for key, value in scores.items()}
    return found


def free_running(run: Run, state: TrainState, examples: Examples) -> dict[str, float]:
    """BLEU-4, ROUGE and the part that is exact, of the first `decode.num_texts`."""
    config, parts = run.config, run.parts
    first = examples.part(slice(config.decode.num_texts))
    if not first.rows:
        return {}
    spoken = compressed.from_soft_prompts(
        parts.lm,
        as_trained(parts, state),
        first,
        max_chunk=config.context.max_chunk,
        num_tokens=max(int(row.scored.sum()) for row in examples.rows),
        temperature=config.decode.temperature,
        top_p=config.decode.top_p,
        key=jax.random.fold_in(state.key, state.step),
    )
    records = compressed.overlap(parts.lm, spoken)
    names = ("rouge_1_f1", "rouge_l_f1", "exact")
    scores = {n: float(np.mean([r[n] for r in records])) for n in names if n in records[0]}
    return {"corpus_bleu": compressed.bleu(parts.lm, records), **scores}


def measured(
    run: Run, step: int, metrics: list[dict[str, Any]], state: TrainState, seconds: float
) -> Record:
    """What the log says of the steps up to `step`; evaluates if due.

    Raises:
      InputError: a loss that is not finite.
    """
    before = step - len(metrics)
    advice = "lower the learning rate of train.schedule_options, or lengthen its warmup"
    check_finite(before, np.asarray([one["loss"] for one in metrics]), advice)
    record: Record = {"step": step}
    for name in ("loss", "nats_per_token", "accuracy", "grad_norm"):
        record[name] = float(np.mean([one[name] for one in metrics], dtype=np.float64))
    record["learning_rate"] = float(metrics[-1]["learning_rate"])
    tokens = sum(float(one["num_tokens"]) for one in metrics)
    record["tokens_per_second"] = tokens / seconds
    if crossed(run.config.evaluate_every, before, step, run.cfg.num_steps):
        record |= evaluate(run, state)
    return record


def add_to_log(log: Log, record: Record) -> None:
    """Adds a record, of which the losses, the speed and BLEU are shown."""
    said = [f"loss {record['loss']:.3f}", f"accuracy {record['accuracy']:.3f}"]
    said.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    said += [
        f"{name.removeprefix('valid_')} {value:.3f}"
        for name, value in record.items()
        if name.endswith(("_nats_per_token", "_bleu"))
    ]
    log.add(record, said, now=any(name.startswith("valid_") for name in record))
