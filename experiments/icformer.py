r"""Trains a context compressor for a frozen LM, and says what the LM makes of its vectors.

  python experiments/icformer.py [--config configs/icformer/tiny.py] \
      [--config.stage=pretrain] [--config.x.y=value] [--workdir DIR] [--profile]

Stages:
  pretrain   autoencoding of documents, going on with them, or both
  finetune   answers to questions about texts (PwC), begun with --config.start
  generate   compresses --config.texts and prints what the LM says from the vectors
  evaluate   reconstruction by length and kind of text, or answers to PwC's test set;
             config.evaluate.beside: of more compressors; .cramming: and of memory

--config.compressor is icformer or icae; --config.start is the folder of another run, or
its compressor.safetensors. Without flags a small IC-Former for the built-in LM learns for
some minutes from the documentation that comes with Python.

A run that was killed resumes from its last checkpoint when the same command is given
again; on a CPU, and on a GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true, its weights
are those of a run never stopped, bit for bit.
"""

import json
from typing import Any, NamedTuple

import jax
from compressor_content import content
from compressor_parts import (
    Parts,
    check_chunks,
    finetuning_of_questions,
    load_parts,
    load_start,
    pretraining_of_texts,
    template,
)
from compressor_tables import evaluate, evaluated
from compressor_training import check, train
from etils import epath
from launch import Config, launch
from pretrain_lm import PYTHON, documents

from memcomp.compressors.chunks import split
from memcomp.compressors.compress import TrainedCompressor, compress, own_tokens
from memcomp.compressors.files import save_soft_prompts
from memcomp.compressors.generate import asked_rows, check_rows, generate
from memcomp.data.texts import read_texts
from memcomp.data.tokens import num_faithful
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.metrics.overlap import bleu_signatures, rouge
from memcomp.runs.cramming import describe
from memcomp.runs.files import (
    RECORDS,
    claim_workdir,
    write_whole,
)
from memcomp.runs.records import said_of_lost_texts

DEFAULT_WORKDIR = "runs/icformer"


def main(config: Config, workdir: str | None) -> None:
    """Config to library to the files of a run."""
    if config.stage not in STAGES:
        raise InputError(f"stage {config.stage!r} is not one of {', '.join(STAGES)}")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    check(config)
    parts = load_parts(config)
    prepare, run = STAGES[config.stage]
    prepared = prepare(config, parts)  # before a wrong name binds the workdir
    about = describe(parts.lm) | content(config)
    if config.stage != "generate":  # what it takes is there, before anything is trained
        about |= {"bleu": bleu_signatures()}
        rouge(["a"], ["a"])
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    run(config, parts, prepared, folder)


class Asked(NamedTuple):
    """What stage generate is about: sources and texts, and what compresses them."""

    found: list[tuple[str, Any]]
    trained: TrainedCompressor


def asked(config: Config, parts: Parts) -> Asked:
    """The texts and the compressor of stage generate.

    Raises:
      InputError: there are none, or they cannot be asked.
    """
    decode, max_chunk = config.decode, config.context.max_chunk
    if decode.num_texts < 1:
        raise InputError(f"decode.num_texts is {decode.num_texts}; give 1 or more")
    if decode.ask not in ("reproduce", "continue"):
        template(config, parts)
    trained = load_start(config, parts)
    if config.texts in PYTHON:
        texts = documents(config.texts)[: decode.num_texts]
        found = [(config.texts, text) for text in texts]
    else:
        found = read_texts(config.texts, field=config.field, num_texts=decode.num_texts)
    chunks = [split(own_tokens(parts.lm, str(text)), max_chunk) for _, text in found]
    check_chunks(max(len(chunk) for text in chunks for chunk in text), parts)
    counts = [len(text) * trained.compressor.num_digests for text in chunks]
    rows = asked_rows(parts.lm, counts, decode.ask, config.question.template)
    check_rows(parts.lm, rows, decode.num_tokens)
    return Asked(found, trained)


def generate_answers(config: Config, parts: Parts, made: Asked, folder: epath.Path) -> None:
    """Writes soft_prompts.safetensors and results.jsonl, and prints the answers."""
    lm, decode, (found, trained) = parts.lm, config.decode, made
    prompts = compress(
        lm, trained, [text for _, text in found], max_chunk=config.context.max_chunk
    )
    save_soft_prompts(folder / "soft_prompts.safetensors", prompts)
    answers = generate(
        lm,
        prompts,
        decode.ask,
        num_tokens=decode.num_tokens,
        template=config.question.template,
        temperature=decode.temperature,
        top_p=decode.top_p,
        key=jax.random.key(config.seed),
    )
    if not is_first():
        return
    records = []
    for i, ((source, text), output) in enumerate(zip(found, answers, strict=True)):
        print(f"{source}: {output}")
        ids = own_tokens(lm, text)
        faithful = num_faithful(lm.tokenizer, ids, text, whole=True)
        record = {"text_id": i, "source": source, "num_vectors": int(prompts.counts[i])}
        record |= {"ask": decode.ask, "output": output}
        records.append(record | {"text_comes_back": faithful == len(ids)})
    if lost := said_of_lost_texts(records):
        print(lost)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_whole(folder / RECORDS, lines)


# What is made of the config before the workdir is claimed, and what is done with it.
STAGES = {
    "pretrain": (pretraining_of_texts, train),
    "finetune": (finetuning_of_questions, train),
    "generate": (asked, generate_answers),
    "evaluate": (evaluated, evaluate),
}


if __name__ == "__main__":
    launch(main, "icformer/tiny.py", resumable=True, profiled=True)
