"""A run that looks for horizons, on disk: killed at any moment, it resumes.

After each chunk, in this order: the trials whose target ended are saved, a file a text; the
memories of the texts whose horizon is known are read back and decoded, and their lines
are appended to horizons.jsonl; the targets in flight are saved. A kill costs one chunk.

With several processes each writes the trials and the lines of its share of the texts.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial, horizons, in_flight, next_target
from memcomp.cram.memory_file import Memory
from memcomp.cram.pool import Pool
from memcomp.cram.recipe import optimizer
from memcomp.data.texts import Text, text_sha256
from memcomp.disk import make_folder
from memcomp.distributed import barrier, is_first
from memcomp.errors import InputError
from memcomp.evaluation.ledger import Ledger
from memcomp.evaluation.prefixes import score_after
from memcomp.evaluation.runs import FLIGHT, read_flight, write_flight
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
      mean_exact: exact prefix of the best memory so far, in tokens, mean over all texts.
      longest: the longest of those of the texts in flight; 0 where none is.
      token_steps_per_second: gradient evaluations of single texts times their tokens a
        second, in this chunk.
      seconds_left: until the last text in flight is given up, if none makes progress.
    """

    num_texts: int
    num_done: int
    mean_exact: float
    longest: int
    token_steps_per_second: float
    seconds_left: float


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
      workdir: claimed by this config. What an earlier start has done is not done again.
        Where that had shorter texts, horizons that ended with the text are looked for on.
      report: called after each chunk.

    Raises:
      InputError: a text that the LM has no room for, or a loss that is not finite.
    """
    make_folder(workdir / TRIALS)
    trials = {text.text_id: _load_trial(workdir, text, cfg) for text in texts}
    ledger = Ledger(workdir / RECORDS)  # where all wait until all have read their trials
    owners = {text.text_id: i % jax.process_count() for i, text in enumerate(texts)}
    # A text that is longer now than when it was recorded is recorded anew.
    now = {text.text_id: text_sha256(text.tokens) for text in texts}
    old = {i: r["text_sha256"] for i, r in ledger.records.items()}
    ledger.drop([i for i in now.keys() & old.keys() if now[i] != old[i]])

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
    begin = time.perf_counter()
    for moved, pool in horizons(lm, texts, cfg, growth, trials, read_flight(workdir)):
        store(moved)
        write_flight(workdir, in_flight(pool, trials))
        now = time.perf_counter()
        seconds, begin = now - begin, now
        report(_progress(trials, len(ledger.records), pool, cfg, seconds))
    ledger.merge()
    if is_first():
        (workdir / FLIGHT).unlink(missing_ok=True)
    barrier()
    return [ledger.records[i] for i in sorted(ledger.records)]


def _progress(
    trials: Mapping[int, Trial], num_done: int, pool: Pool, cfg: CramConfig, seconds: float
) -> HorizonProgress:
    """Where a run stands after a chunk of so many seconds."""
    flying = {flown.text_id: flown for flown in pool.flying()}
    exact = {i: trial.exact for i, trial in trials.items()}
    exact |= {i: max(exact[i], flown.prefix) for i, flown in flying.items()}
    steps_left = max((flown.steps_left for flown in flying.values()), default=0)
    return HorizonProgress(
        num_texts=len(trials),
        num_done=num_done,
        mean_exact=float(np.mean(list(exact.values()))),
        longest=max((exact[i] for i in flying), default=0),
        token_steps_per_second=pool.last_token_steps / seconds,
        seconds_left=steps_left * seconds / cfg.steps_per_chunk,
    )


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
    nats_after = _nats_after_memory(lm, held, cfg, pad_to)
    records = []
    for trial, baseline in zip(ended, without, strict=True):
        prefix = trial.text.tokens[: trial.exact]
        nats = float(np.nansum(baseline.surprise_nats[: trial.exact], dtype=np.float64))
        gain = nats - nats_after.get(trial.text.text_id, 0.0)
        plain, rounded = next(decoded) if trial.exact else (prefix, prefix)
        records.append(
            {
                "text_id": trial.text.text_id,
                "source": trial.text.source,
                "source_sha256": trial.text.source_sha256,
                "text_sha256": text_sha256(trial.text.tokens),
                "num_tokens": len(trial.text.tokens),
                "num_memory": cfg.num_memory,
                "protocol": cfg.protocol,
                "horizon": trial.exact,
                "horizon_nats": nats,
                "horizon_bits": nats * BITS_PER_NAT,
                "information_gain_nats": gain,
                "information_gain_bits": gain * BITS_PER_NAT,
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


def _nats_after_memory(
    lm: LanguageModel, held: Sequence[Trial], cfg: CramConfig, pad_to: int
) -> dict[int, float]:
    """By text id, the cross-entropy of the scored tokens of its horizon, given memory."""
    if not held:
        return {}
    tokens = np.zeros((len(held), pad_to), np.int32)
    for of_text, trial in zip(tokens, held, strict=True):
        of_text[: len(trial.text.tokens)] = trial.text.tokens
    memory = np.stack([np.asarray(trial.memory) for trial in held])
    # float32, as the surprise: what a text is scored with may change the last digits.
    losses = score_after(lm, memory, tokens).loss.astype(np.float32)
    return {
        trial.text.text_id: float(
            np.sum(loss[cfg.num_given : trial.exact], dtype=np.float64)
        )
        for trial, loss in zip(held, losses, strict=True)
    }


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
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        counts: dict[str, Any] = json.loads(header["__metadata__"]["counts"])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged ({error!r}); remove it, and its text begins anew"
        ) from error
    if "memory" not in arrays:
        return Trial(text, **counts)
    template = optimizer(cfg.resolved_recipe()).init(arrays["memory"])
    leaves = [arrays[f"opt/{i}"] for i in range(len(arrays) - 1)]
    opt_state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return Trial(text, memory=arrays["memory"], opt_state=opt_state, **counts)
