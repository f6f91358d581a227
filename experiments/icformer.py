r"""Trains a context compressor for a frozen LM, and says what the LM makes of its vectors.

  python experiments/icformer.py [--config configs/icformer/tiny.py] \
      [--config.stage=pretrain] [--config.x.y=value] [--workdir DIR]

Stages:
  pretrain   autoencoding of documents, going on with them, or both
  finetune   answers to questions about texts (PwC), begun with --config.start
  generate   compresses --config.texts and prints what the LM says from the vectors
  evaluate   reconstruction by length and kind of text, or answers to PwC's test set

--config.compressor is icformer or icae; --config.start is the folder of another run, or
its compressor.safetensors. Without flags a small IC-Former for the built-in LM learns for
some minutes from the documentation that comes with Python.

A run that was killed goes on from its last checkpoint when the same command is given
again; on a CPU, and on a GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true, its weights
are those of a run never stopped, bit for bit.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from compressor_parts import (
    Parts,
    check_text,
    document_tokens,
    finetuning,
    finetuning_of_questions,
    load_parts,
    load_start,
    pretraining,
    pretraining_of_texts,
    question_tokens,
)
from compressor_training import check, train
from etils import epath
from launch import launch
from ml_collections import config_dict

from memcomp.compressor import layout
from memcomp.compressor.api import generate
from memcomp.compressor.batches import Examples
from memcomp.compressor.compress import TrainedCompressor, compress
from memcomp.compressor.files import save_soft_prompts
from memcomp.data.contexts import Contexts, context_batches, fitting
from memcomp.data.ragged import Ragged
from memcomp.data.texts import read_texts
from memcomp.errors import InputError
from memcomp.evaluation import compressed
from memcomp.evaluation.digest_figures import attention_map
from memcomp.evaluation.overlap import bleu_signature, rouge
from memcomp.evaluation.runs import describe
from memcomp.evaluation.scores import baselines
from memcomp.evaluation.text_kinds import ordinary_ids, text_of_kind
from memcomp.icformer.model import ICFormer
from memcomp.lm import LanguageModel
from memcomp.results import (
    RECORDS,
    SUMMARY,
    Record,
    claim_workdir,
    run_studies,
    summarise,
    write_whole,
)

DEFAULT_WORKDIR = "runs/icformer"
# Of a table, on the screen.
SHOWN = ("nats_per_token", "gain_nats_per_token", "bleu", "exact", "rouge_1_f1")
SHOWN += ("rouge_l_f1",)

# The rows of a table: by name, what makes the records of its texts.
Rows = dict[str, Callable[[], list[Record]]]


def main(config: config_dict.ConfigDict, workdir: str | None) -> None:
    """Config to library to the files of a run."""
    if config.stage not in STAGES:
        raise InputError(f"stage {config.stage!r} is not one of {', '.join(STAGES)}")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    check(config)
    parts = load_parts(config)
    prepare, run = STAGES[config.stage]
    prepared = prepare(config, parts)  # before a wrong name binds the workdir
    about = describe(parts.lm)
    if config.stage != "generate":  # what it takes is there, before anything is trained
        about |= {"bleu": bleu_signature()}
        rouge(["a"], ["a"])
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), about)
    run(config, parts, prepared, folder)


def generate_answers(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> None:
    """Writes soft_prompts.safetensors and results.jsonl, and prints the answers."""
    lm, decode = parts.lm, config.decode
    found = read_texts(config.texts, field=config.field, num_texts=decode.num_texts)
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
    records = []
    for i, ((source, _), output) in enumerate(zip(found, answers, strict=True)):
        print(f"{source}: {output}")
        num_vectors = int(prompts.counts[i])
        record = {"text_id": i, "source": source, "num_vectors": num_vectors}
        records.append(record | {"ask": decode.ask, "output": output})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_whole(folder / RECORDS, lines)


def evaluate(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> None:
    """Writes results.jsonl, one line a text and row of the table, and summary.json."""
    rows = STUDIES[config.evaluate.study](config, parts, trained, folder)
    records = run_studies(folder / RECORDS, rows)
    table = {
        kind: summarise([record for record in records if record["kind"] == kind])
        for kind in rows
    }
    write_whole(folder / SUMMARY, json.dumps(table, indent=2) + "\n")
    for kind, figures in table.items():
        means = [f"{k} {figures[k]['mean']:.3f}" for k in SHOWN if k in figures]
        print(f"{kind}: n {figures['n']}, {', '.join(means)}")


def reconstructions(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> Rows:
    """Texts of each length and kind, reproduced.

    EOS is not scored: windows end in the middle of a document, where it costs as much as
    several words, and the LM without vectors is not asked for it.
    """
    lm, made = parts.lm, pretraining(config, parts)
    made = dataclasses.replace(made, shapes=dataclasses.replace(made.shapes, eos=None))
    ids = ordinary_ids(lm.tokenizer, lm.config.vocab_size)
    longest = max(config.evaluate.lengths)
    if longest > config.context.length:
        raise InputError(
            f"evaluate.lengths has {longest}, more than context.length = "
            f"{config.context.length}; raise the one or lower the other"
        )
    tokens = held_out(config, parts, folder, longest)
    numbers = np.arange(len(tokens))
    nothing = Ragged.of([[]] * len(tokens)).padded(numbers, 0)

    def make(kind: str, length: int) -> list[Record]:
        texts = [
            text_of_kind(kind, row[:length], ids=ids, seed=config.seed, text_id=i)
            for i, row in enumerate(tokens)
        ]
        held = Ragged.of(row.tolist() for row in texts).padded(numbers, length)
        examples = made.examples(Contexts(held, nothing), np.zeros(len(tokens), bool))
        records = scored(config, parts, trained, examples, length)
        return with_gains(records, unaided(lm, texts, length))

    if isinstance(trained.compressor, ICFormer):
        draw_attention(parts, trained, tokens[0], folder)
    lengths = config.evaluate.lengths
    rows: Rows = {
        f"{kind} {length}": functools.partial(make, kind, length)
        for kind, length in itertools.product(config.evaluate.kinds, lengths)
    }
    for length in lengths:
        begun = [row[:length] for row in tokens]
        rows[f"no vectors {length}"] = functools.partial(unaided, lm, begun, length)
    return rows


def unaided(lm: LanguageModel, texts: list[np.ndarray], length: int) -> list[Record]:
    """What the LM gives texts of `length` tokens without vectors.

    `first_nats` is what it gives their first token after the start of a document.
    """
    texts = [text.astype(np.int32) for text in texts]
    found = baselines(lm, texts, num_given=0, pad_to=length, vocab_chunk=8192)
    return [
        {
            "nats_per_token": one.loss_nats,
            "accuracy": one.accuracy,
            "num_tokens": length,
            "first_nats": float(one.surprise_nats[0]),
        }
        for one in found
    ]


def with_gains(records: list[Record], without: list[Record]) -> list[Record]:
    """The records, each with what its vectors are worth beside the LM without them.

    `gain_nats_per_token` is of all tokens, `gain_nats_per_later_token` of those after the
    first, where there are any.
    """
    found = []
    for record, bare in zip(records, without, strict=True):
        n, gain = record["num_tokens"], bare["nats_per_token"] - record["nats_per_token"]
        gains = {"gain_nats_per_token": gain}
        if n > 1:
            later = n * gain - (bare["first_nats"] - record["first_nats"])
            gains["gain_nats_per_later_token"] = later / (n - 1)
        found.append(record | gains)
    return found


def held_out(
    config: config_dict.ConfigDict, parts: Parts, folder: epath.Path, length: int
) -> list[np.ndarray]:
    """Windows of the documents that are not trained on, all of `length` tokens."""
    check_text("valid", config.valid, config.field)
    documents = document_tokens(config, parts, config.valid, folder / "tokens" / "valid")
    (windows,) = context_batches(
        documents,
        length=length,
        batch_size=config.evaluate.num_texts,
        num_batches=1,
        seed=config.seed,
        by_tokens=True,
    )
    held = windows.context
    tokens = [row for row, n in zip(held.tokens, held.lengths, strict=True) if n == length]
    if not tokens:
        raise InputError(
            f"no text of {config.valid} has {length} tokens; lower evaluate.lengths"
        )
    return tokens


def draw_attention(
    parts: Parts, trained: TrainedCompressor, tokens: np.ndarray, folder: epath.Path
) -> None:
    """Writes figures/attention.png and .csv: what each digest reads of one text."""
    params = trained.params["compressor"]
    one, lengths = jnp.asarray(tokens[None], jnp.int32), jnp.array([len(tokens)])
    read = jax.jit(trained.compressor.attention)
    weights = read(params, parts.lm.params, one, lengths)
    words = [parts.lm.tokenizer.decode([int(token)]) for token in tokens]
    drawn = attention_map(np.asarray(weights[:, 0]), words)
    (folder / "figures").mkdir(exist_ok=True)
    write_whole(folder / "figures" / "attention.csv", drawn.csv())
    write_whole(folder / "figures" / "attention.png", drawn.png())


def answers(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    folder: epath.Path,
) -> Rows:
    """Questions of PwC's test set, from vectors, from the text, and from neither."""
    made = finetuning(config, parts)
    tokens = question_tokens(config, parts, "test", folder / "tokens" / "test")
    sizes = dict(context=config.context.length, prompt=made.prompt, answer=made.answer)
    rows = fitting(tokens, **sizes | {"context": None})[: config.evaluate.num_texts]
    if not len(rows):
        raise InputError(
            "no question of the test set fits; raise question.prompt and question.answer"
        )
    batch = tokens.batch(rows, **sizes)
    examples, lm = made.examples(batch), parts.lm
    nothing = np.zeros(0, np.int32)
    bare = [
        layout.full_context_row(question, nothing, made.shapes.eos)
        for question in made.questions(batch)
    ]

    def read(texts: list[layout.Row]) -> list[Record]:
        spoken = compressed.from_texts(lm, texts, num_tokens=made.answer)
        return compressed.overlap(lm, spoken)

    vectors = functools.partial(scored, config, parts, trained, examples, made.answer)
    return {
        config.compressor: vectors,
        "full context": lambda: read(examples.teachers),
        "no context": lambda: read(bare),
    }


def scored(
    config: config_dict.ConfigDict,
    parts: Parts,
    trained: TrainedCompressor,
    examples: Examples,
    num_tokens: int,
) -> list[Record]:
    """Of each text: nats and accuracy, teacher-forced; and its free-running answer."""
    lm, task = parts.lm, parts.task
    spoken = compressed.from_soft_prompts(
        lm,
        trained,
        examples,
        max_chunk=config.context.max_chunk,
        # One more than is wanted: an answer that does not end there is not exact.
        num_tokens=num_tokens + 1,
    )
    forced = compressed.teacher_forced(trained.params, lm, examples.batch, task)
    answered = compressed.overlap(lm, spoken)
    return [a | b for a, b in zip(forced, answered, strict=True)]


# What is made of the config before the workdir is claimed, and what is done with it.
STAGES = {
    "pretrain": (pretraining_of_texts, train),
    "finetune": (finetuning_of_questions, train),
    "generate": (load_start, generate_answers),
    "evaluate": (load_start, evaluate),
}
STUDIES = {"reconstruction": reconstructions, "answers": answers}


if __name__ == "__main__":
    launch(main, "icformer/tiny.py")
