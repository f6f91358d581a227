"""Evaluates a compressor in training on held-out examples."""

from collections.abc import Mapping

import jax
import numpy as np

from memcomp.compressors.batches import Examples
from memcomp.compressors.compress import SoftPrompts, compress
from memcomp.compressors.layout import Row
from memcomp.compressors.setup import Setup
from memcomp.compressors.training import TrainState
from memcomp.runs.compressor_training import as_trained
from memcomp.studies import answers as compressed


def scores_of_examples(
    setup: Setup, valid: Mapping[str, Examples], state: TrainState
) -> dict[str, float]:
    """Scores a training state on held-out examples, teacher-forced and free-running.

    Losses are means over all tokens that training would score, EOS included.

    Args:
      setup: setup of the run.
      valid: held-out examples by name, such as "reconstruction".
      state: state of the training.

    Returns:
      Scores by name, which begins with "valid_" and the name of the examples:
      `nats_per_token` and `accuracy`, teacher-forced; and, except for continuations,
      `corpus_bleu`, ROUGE and `exact` of free-running answers.
    """
    found, cfg, lm = {}, setup.settings.train, setup.lm
    # A micro-batch of training is known to fit the devices and the mesh.
    size = {"batch_size": cfg.batch_size // cfg.accumulation}
    max_chunk, trained = setup.settings.context.max_chunk, as_trained(setup, state)
    for name, examples in valid.items():
        prompts = compress(lm, trained, examples.contexts, max_chunk=max_chunk, **size)
        rows = examples.batch.rows
        records = compressed.teacher_forced_from(lm, prompts, rows, **size)
        counts = [record["num_tokens"] for record in records]
        scores = {
            key: float(np.average([record[key] for record in records], weights=counts))
            for key in ("nats_per_token", "accuracy")
        }
        if name != "continuation":  # a text has many good continuations
            scores |= _free_running(setup, int(state.step), prompts, examples.rows)
        found |= {f"valid_{name}_{key}": value for key, value in scores.items()}
    return found


def _free_running(
    setup: Setup, step: int, prompts: SoftPrompts, rows: list[Row]
) -> dict[str, float]:
    """BLEU-4, ROUGE and the share of exact answers, over the first `decode.num_texts`."""
    settings, lm = setup.settings, setup.lm
    number = settings.decode.num_texts
    if not number:
        return {}
    spoken = compressed.spoken_from(
        lm,
        prompts.first(number),
        rows[:number],
        num_tokens=max(int(row.scored.sum()) for row in rows),
        temperature=settings.decode.temperature,
        top_p=settings.decode.top_p,
        key=jax.random.fold_in(jax.random.key(settings.seed), step),
    )
    records = compressed.overlap(lm, spoken)
    names = ("rouge_1_f1", "rouge_l_f1", "exact")
    scores = {n: float(np.mean([r[n] for r in records])) for n in names if n in records[0]}
    return {"corpus_bleu": compressed.bleu(lm, records), **scores}
