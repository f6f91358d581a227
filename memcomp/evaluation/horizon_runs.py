"""A run that looks for horizons, on disk: stopped at any moment, it goes on.

After each chunk, in this order: the trials that were moved on are saved, a file a text;
the memories of the texts whose horizon is known are written, read back and decoded; their
lines are appended to horizons.jsonl. A kill costs the targets that were being tried.

With several processes each writes the trials and the lines of its share of the texts.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial, horizons, next_target
from memcomp.cram.memory_file import Memory
from memcomp.cram.recipe import optimizer
from memcomp.data.texts import Text, text_sha256
from memcomp.evaluation.ledger import Ledger
from memcomp.evaluation.scores import BITS_PER_NAT, baselines, decode_stored
from memcomp.lm import LanguageModel
from memcomp.results import Record, write_whole

RECORDS = "horizons.jsonl"
TRIALS = "trials"
COUNTS = ("exact", "failed", "steps", "token_steps", "num_targets")


@dataclasses.dataclass(frozen=True)
class HorizonProgress:
    """Where a run stands after a chunk.

    Attributes:
      num_texts: of the whole run.
      num_done: texts whose horizon is known.
      mean_exact: longest exact target so far, mean over all texts, in tokens.
      token_steps: of all targets that have ended.
    """

    num_texts: int
    num_done: int
    mean_exact: float
    token_steps: int


def run_horizons(
    lm: LanguageModel,
    texts: Sequence[Text],
    cfg: CramConfig,
    growth: Growth,
    workdir: epath.Path,
    report: Callable[[HorizonProgress], None] = lambda progress: None,
) -> list[Record]:
    """Finds the horizon of every text into files of `workdir`; records by text id.

    Args:
      lm: the frozen language model.
      texts: with distinct ids, at the length up to which a horizon is looked for.
      cfg: what to cram and how.
      growth: how targets follow each other.
      workdir: claimed by this config; what an earlier start has done is not done again.
      report: called after each chunk.

    Raises:
      InputError: a text that the LM has no room for, or a loss that is not finite.
    """
    (workdir / TRIALS).mkdir(parents=True, exist_ok=True)
    trials = {text.text_id: _load_trial(workdir, text, cfg) for text in texts}
    ledger = Ledger(workdir / RECORDS)  # where all wait until all have read their trials
    owners = {text.text_id: i % jax.process_count() for i, text in enumerate(texts)}

    def store(moved: Sequence[Trial]) -> None:
        for trial in moved:
            trials[trial.text.text_id] = trial
            if owners[trial.text.text_id] == jax.process_index():
                _save_trial(workdir, trial)
        ended = [
            trial
            for trial in moved
            if next_target(trial, growth, cfg.num_given) is None
            and trial.text.text_id not in ledger.records
        ]
        ledger.add(_records(lm, ended, cfg), owners)

    store(list(trials.values()))  # a kill may have come before the line of an ended one
    for moved, _ in horizons(lm, texts, cfg, growth, trials):
        store(moved)
        report(
            HorizonProgress(
                num_texts=len(texts),
                num_done=len(ledger.records),
                mean_exact=float(np.mean([t.exact for t in trials.values()])),
                token_steps=sum(t.token_steps for t in trials.values()),
            )
        )
    ledger.merge()
    return [ledger.records[i] for i in sorted(ledger.records)]


def _records(lm: LanguageModel, ended: Sequence[Trial], cfg: CramConfig) -> list[Record]:
    """Lines of horizons.jsonl; a horizon is decoded from its stored vector."""
    if not ended:
        return []
    pad_to = max(len(trial.text.tokens) for trial in ended)
    held = [trial for trial in ended if trial.memory is not None]
    decoded = iter(decode_stored(lm, [_memory(t, lm, cfg) for t in held], pad_to))
    tokens = [trial.text.tokens for trial in ended]
    without = baselines(
        lm, tokens, num_given=cfg.num_given, pad_to=pad_to, vocab_chunk=cfg.vocab_chunk
    )
    records = []
    for trial, baseline in zip(ended, without, strict=True):
        prefix = trial.text.tokens[: trial.exact]
        nats = float(np.nansum(baseline.surprise_nats[: trial.exact], dtype=np.float64))
        plain, rounded = next(decoded) if trial.exact else (prefix, prefix)
        records.append(
            {
                "text_id": trial.text.text_id,
                "source": trial.text.source,
                "text_sha256": text_sha256(trial.text.tokens),
                "num_tokens": len(trial.text.tokens),
                "num_memory": cfg.num_memory,
                "protocol": cfg.protocol,
                "horizon": trial.exact,
                "horizon_nats": nats,
                "horizon_bits": nats * BITS_PER_NAT,
                "exact_greedy": bool(np.array_equal(plain, prefix)),
                "exact_greedy_bfloat16": bool(np.array_equal(rounded, prefix)),
                "failed": trial.failed,
                "steps": trial.steps,
                "token_steps": trial.token_steps,
                "num_targets": trial.num_targets,
                "memory_file": _trial_name(trial.text),
            }
        )
    return records


def _memory(trial: Trial, lm: LanguageModel, cfg: CramConfig) -> Memory:
    given = tuple(int(t) for t in trial.text.tokens[: cfg.num_given])
    assert trial.memory is not None
    return Memory(
        memory=trial.memory,
        num_tokens=trial.exact,
        given=given,
        protocol=cfg.protocol,
        source=trial.text.source,
        lm_name=lm.name,
        lm_fingerprint=lm.fingerprint,
    )


def _trial_name(text: Text) -> str:
    return f"{TRIALS}/{text.text_id:08d}.safetensors"


def _save_trial(workdir: epath.Path, trial: Trial) -> None:
    arrays = {}
    if trial.memory is not None:
        leaves = jax.tree.leaves(trial.opt_state)
        arrays = {f"opt/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        arrays["memory"] = np.asarray(trial.memory)
    counts = {name: getattr(trial, name) for name in COUNTS}
    data = safetensors.numpy.save(arrays, {"counts": json.dumps(counts)})
    write_whole(workdir / _trial_name(trial.text), data)


def _load_trial(workdir: epath.Path, text: Text, cfg: CramConfig) -> Trial:
    path = workdir / _trial_name(text)
    if not path.exists():
        return Trial(text)
    data = path.read_bytes()
    arrays = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    counts: dict[str, Any] = json.loads(header["__metadata__"]["counts"])
    if "memory" not in arrays:
        return Trial(text, **counts)
    template = optimizer(cfg.resolved_recipe()).init(arrays["memory"])
    leaves = [arrays[f"opt/{i}"] for i in range(len(arrays) - 1)]
    opt_state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return Trial(text, memory=arrays["memory"], opt_state=opt_state, **counts)
