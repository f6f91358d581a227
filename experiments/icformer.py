r"""Trains a context compressor for a frozen LM, and evaluates how the LM uses its vectors.

  python experiments/icformer.py [--config configs/icformer/tiny.py] \
      [--config.stage=pretrain] [--config.x.y=value] [--workdir DIR] [--profile]

Stages:
  pretrain   trains to reproduce documents (autoencoding), to continue them, or both
  finetune   trains to answer questions about texts (PwC), starting from --config.start
  generate   compresses --config.texts and prints the LM's answers from the vectors
  evaluate   measures reconstruction by length and kind of text, or answers to PwC's test
             set; config.evaluate.beside adds compressors, .baselines adds baselines
             without weights, .cramming adds crammed memory
  both       pretrain, and then evaluate, whose table is in WORKDIR/table

--config.compressor is icformer, icae, gradmem or pooling; --config.start is the folder of
another run, or its compressor.safetensors. Without flags, a small IC-Former for the
built-in LM is trained for some minutes on the documentation that comes with Python.

The same command resumes a killed run from its last checkpoint. On a CPU, and on a GPU with
XLA_FLAGS=--xla_gpu_deterministic_ops=true, its weights then equal those of a run without
interruption, bit for bit.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
from etils import epath
from launch import Config, is_profiled, is_told_to_stop, launch, stop_if_told

from memcomp.compressors.batches import Pretraining
from memcomp.compressors.registry import COMPRESSOR, save_compressor
from memcomp.compressors.settings import settings_of
from memcomp.compressors.setup import (
    Setup,
    content,
    finetuning_of_questions,
    make_task,
    pretraining_of_texts,
)
from memcomp.compressors.training_data import finetuning_data, pretraining_data
from memcomp.distributed import is_first, say
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.metrics.overlap import bleu_signatures, rouge
from memcomp.ranges import check_choice
from memcomp.report.digest_figures import (
    attention_map,
    learning_curves,
    stored_by_cost,
)
from memcomp.runs.answering import Asked, answer, load_asked
from memcomp.runs.compressor_training import as_trained, num_params, train_compressor
from memcomp.runs.cramming import describe
from memcomp.runs.files import RECORDS, SUMMARY, claim_workdir, read_records, write_whole
from memcomp.runs.profile import Profile
from memcomp.runs.records import said_of_lost_texts
from memcomp.runs.training import Intervals
from memcomp.runs.training_log import LOG
from memcomp.sharding import make_mesh
from memcomp.studies.compared import Compared
from memcomp.studies.compressor_tables import (
    STUDIES,
    check_evaluated,
    load_evaluated,
    run_table,
)
from memcomp.studies.held_out import scores_of_examples

DEFAULT_WORKDIR = "runs/icformer"
TABLE = "table"  # folder of stage both's table in its workdir
# Figures of a table that are printed.
SHOWN = ("nats_per_token", "gain_nats_per_token", "text_bleu", "exact", "rouge_1_f1")
SHOWN += ("rouge_l_f1", "steps", "flops", "seconds")


def main(config: Config, workdir: str | None) -> None:
    """Runs a stage and writes the files of a run."""
    check_choice("stage", config.stage, STAGES)
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    settings = settings_of(config.to_dict())
    intervals(config)  # raises for bad values before anything is loaded
    how = {"remat": config.remat, "attention": config.attention}
    lm = load_lm(config.lm, dtype=config.dtype, mesh=make_mesh(**config.mesh), **how)
    setup = Setup(settings, lm, make_task(settings, lm.module))
    prepare, run = STAGES[config.stage]
    prepared = prepare(setup)  # raises for bad input before the workdir is claimed
    about = describe(lm) | content(settings)
    if config.stage != "generate":  # missing packages raise before anything is trained
        about |= {"bleu": bleu_signatures()}
        rouge(["a"], ["a"])
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    run(config, setup, prepared, folder)


def intervals(config: Config) -> Intervals:
    """Returns how long the run is, and how often it is logged, saved and evaluated.

    Raises:
      InputError: a number is below 1, or a resumed run would log other lines.
    """
    names = ("log_every", "save_every", "evaluate_every")
    every = {name: config[name] for name in names}
    made = Intervals(num_steps=config.train.num_steps, **every)
    for name in ("save_every", "evaluate_every"):
        if every[name] % made.log_every:
            raise InputError(
                f"{name} is {every[name]}; give a multiple of log_every = "
                f"{made.log_every}, so that a run that goes on logs the same lines"
            )
    return made


def train(config: Config, setup: Setup, made: Any, folder: epath.Path) -> None:
    """Trains, resuming from the last checkpoint if there is one; writes the compressor."""
    make = finetuning_data if config.stage == "finetune" else pretraining_data
    data = make(setup, made, folder)
    with Profile(folder, is_profiled()) as profile:
        state = train_compressor(
            setup,
            data.batches,
            intervals(config),
            folder,
            functools.partial(scores_of_examples, setup, data.valid),
            is_told_to_stop=is_told_to_stop,
            after_step=profile.step,
        )
    save_compressor(folder / COMPRESSOR, as_trained(setup, state))
    if not is_first():
        return
    summary = {"num_steps": config.train.num_steps, "num_params": num_params(state)}
    lines = read_records(folder / LOG)
    learning_curves({config.compressor: lines}).write(folder / "figures", "curves")
    last = lines[-1]  # the record of the last step, which is always evaluated
    summary |= data.counts | {k: v for k, v in last.items() if k.startswith("valid_")}
    write_whole(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    said = ", ".join(f"{name} {value:.4g}" for name, value in summary.items())
    say(f"wrote {folder / COMPRESSOR}: {said}")


def generate(config: Config, setup: Setup, asked: Asked, folder: epath.Path) -> None:
    """Writes soft_prompts.safetensors and results.jsonl, and prints the answers."""
    records = answer(setup, asked, folder)
    if is_first():
        for record in records:
            print(f"{record['source']}: {record['output']}")
        if lost := said_of_lost_texts(records):
            print(lost)


def evaluate(
    config: Config, setup: Setup, compared: list[Compared], folder: epath.Path
) -> None:
    """Makes the table of the study; writes results.jsonl and summary.json."""
    make = STUDIES[config.evaluate.study].make
    study = make(compared, folder, stop_if_told)
    if study.attention and is_first():
        attention_map(*study.attention).write(folder / "figures", "attention")
    table = run_table(study, setup.lm, folder, stop_if_told)
    if is_first():
        if stored := stored_by_cost(read_records(folder / RECORDS)):
            stored.write(folder / "figures", "stored")
        for name, row in table.items():
            means = [f"{k} {row[k]['mean']:.4g}" for k in SHOWN if k in row]
            print(f"{name}: n {row['n']}, {', '.join(means)}")
        write_whole(folder / SUMMARY, json.dumps(table | study.counts, indent=2) + "\n")


def prepare_both(setup: Setup) -> Pretraining:
    """Prepares stage both: what would be wrong with its table is said before training."""
    check_evaluated(setup)
    return pretraining_of_texts(setup)


def both(config: Config, setup: Setup, made: Pretraining, folder: epath.Path) -> None:
    """Trains a compressor and makes its table, in WORKDIR/table."""
    train(config, setup, made, folder)
    settings = dataclasses.replace(setup.settings, start=str(folder))
    setup = setup._replace(settings=settings)
    evaluate(config, setup, load_evaluated(setup), folder / TABLE)


# Stage -> the function that prepares it before the workdir is claimed, and that runs it.
STAGES = {
    "pretrain": (pretraining_of_texts, train),
    "finetune": (finetuning_of_questions, train),
    "generate": (load_asked, generate),
    "evaluate": (load_evaluated, evaluate),
    "both": (prepare_both, both),
}


if __name__ == "__main__":
    launch(main, "icformer/tiny.py", resumable=True, profiled=True)
