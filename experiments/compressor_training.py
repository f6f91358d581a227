"""The loop of experiments/icformer.py: steps, checkpoints, evaluation, log."""

import functools
import json
from typing import Any, NamedTuple

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
from launch import Config, is_profiled, is_told_to_stop

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
from memcomp.runs.files import (
    SUMMARY,
    Record,
    read_records,
    write_whole,
)
from memcomp.runs.profile import Profile
from memcomp.runs.training import Intervals, Trained
from memcomp.runs.training import train as train_model
from memcomp.runs.training_log import LOG, say
from memcomp.sharding import put_batch
from memcomp.studies import answers as compressed

ADVICE = "lower the learning rate of train.schedule_options, or lengthen its warmup"
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
    intervals(config)
    check_seed("seed", config.seed)
    check_count("num_valid", config.num_valid, 0)
    for name in ("save_every", "evaluate_every"):
        if config[name] % config.log_every:
            raise InputError(
                f"{name} is {config[name]}; give a multiple of log_every = "
                f"{config.log_every}, so that a run that goes on logs the same lines"
            )
    check_sampling(config.decode.temperature, config.decode.top_p)
    if config.decode.num_texts < 0:
        raise InputError(f"decode.num_texts is {config.decode.num_texts}; give 0 or more")


def intervals(config: Config) -> Intervals:
    """How long the run is, and how often it is logged, saved and evaluated."""
    names = ("log_every", "save_every", "evaluate_every")
    every = {name: config[name] for name in names}
    return Intervals(num_steps=train_config(config).num_steps, **every)


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
    cfg, parts = run.cfg, run.parts
    task, mesh = parts.task, parts.mesh
    step = training.jit_train_step(task, cfg, mesh)
    like = functools.partial(training.abstract_state, task, cfg, mesh)
    trained = Trained(
        init=functools.partial(first_state, run),
        like=like,
        batches=run.data.batches,
        advance=lambda state, batch: step(
            state, parts.lm.params, put_batch(batch, mesh, axis=1)
        ),
        figures=figures,
        evaluate=functools.partial(evaluate, run),
        shown=shown,
        advice=ADVICE,
    )
    say(
        f"{num_params(like()):,} trained parameters, {cfg.num_steps:,} steps of "
        f"{cfg.batch_size} rows in {cfg.dtype} on {mesh.size} x "
        f"{jax.devices()[0].device_kind}"
    )
    with jax.set_mesh(mesh), Profile(run.folder, is_profiled()) as profile:
        return train_model(
            trained,
            intervals(run.config),
            run.folder,
            is_told_to_stop=is_told_to_stop,
            after_step=profile.step,
        )


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


def figures(step: int, metrics: dict[str, np.ndarray], seconds: float) -> Record:
    """What the log says of some steps, which took so many seconds."""
    names = ("loss", "nats_per_token", "accuracy", "grad_norm")
    record = {name: float(metrics[name].mean(dtype=np.float64)) for name in names}
    record["learning_rate"] = float(metrics["learning_rate"][-1])
    record["tokens_per_second"] = (
        float(metrics["num_tokens"].sum(dtype=np.float64)) / seconds
    )
    return record


def shown(record: Record) -> list[str]:
    """The losses, the speed and BLEU of a record, for the terminal."""
    said = [f"loss {record['loss']:.3f}", f"accuracy {record['accuracy']:.3f}"]
    said.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return said + [
        f"{name.removeprefix('valid_')} {value:.3f}"
        for name, value in record.items()
        if name.endswith(("_nats_per_token", "_bleu"))
    ]
