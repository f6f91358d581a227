"""A run that looks for horizons, in a workdir; it can be killed at any moment and resumes.

After each chunk, four things happen in this order: texts whose exact prefix is longer get a
line in growth.jsonl; the trials whose target ended are saved, one file per text; the
memories of the texts whose horizon is known are decoded, and their lines are appended to
horizons.jsonl; the targets in flight are saved. A kill costs one chunk.

With several processes, each writes the trials and the lines of its share of the texts.
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
from jaxtyping import Float

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Growth, Trial, horizons, in_flight, next_target
from memcomp.cram.memory_file import Memory
from memcomp.cram.pool import Pool, Snapshot
from memcomp.cram.recipe import optimizer
from memcomp.cram.ways.table import scores_given_memory
from memcomp.data.texts import Text, text_sha256
from memcomp.disk import make_folder
from memcomp.distributed import barrier, is_first
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import BITS_PER_NAT, baselines
from memcomp.runs.cramming import FLIGHT, read_flight, write_flight
from memcomp.runs.files import Record, write_whole
from memcomp.runs.growth import GrowthLog
from memcomp.runs.ledger import Ledger
from memcomp.runs.records import common_prefix, decode_stored

RECORDS = "horizons.jsonl"
TRIALS = "trials"
COUNTS = ("exact", "failed", "steps", "token_steps", "num_targets", "diverged_at")


@dataclasses.dataclass(frozen=True)
class HorizonProgress:
    """Progress of a run after a chunk.

    Attributes:
      num_texts: number of texts of the whole run.
      num_done: texts whose horizon is known.
      mean_exact: exact prefix of the best memory so far, in tokens, mean over all texts.
      longest: longest such prefix of a text in flight; 0 if no text is in flight.
      token_steps_per_second: gradient evaluations of single texts per second, each counted
        by the text's number of tokens, in this chunk.
      seconds_left: seconds until the last text in flight is given up, if none progresses.
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
    """Finds the horizon of every text; returns the records, ordered by `seed_id`.

    Args:
      lm: the frozen language model.
      texts: the texts, with distinct `seed_id`s, as long as a horizon may become.
      cfg: what to cram and how.
      growth: how targets follow each other.
      workdir: folder claimed by this config, for the files. Results of an earlier start
        are kept. If its texts were shorter, horizons that ended with the text grow further.
      report: called after each chunk.

    Raises:
      InputError: a text does not fit into the LM's positions.
    """
    make_folder(workdir / TRIALS)
    trials = {text.seed_id: _load_trial(workdir, text, cfg) for text in texts}
    ledger = Ledger(workdir / RECORDS)  # a barrier: all processes have read their trials
    owners = {text.seed_id: i % jax.process_count() for i, text in enumerate(texts)}
    # A text that is longer now than when it was recorded gets a new record.
    now = {text.seed_id: text_sha256(text.tokens) for text in texts}
    old = {i: r["text_sha256"] for i, r in ledger.records.items()}
    ledger.drop([i for i in now.keys() & old.keys() if now[i] != old[i]])

    def store(moved: Sequence[Trial]) -> None:
        for trial in moved:
            if owners[trial.text.seed_id] == jax.process_index():
                _save_trial(workdir, trial)
        ended = [
            trial
            for trial in moved
            if next_target(trial, growth, cfg) is None
            and trial.text.seed_id not in ledger.records
        ]
        ledger.add(_records(lm, ended, cfg), owners)

    store(list(trials.values()))  # a kill may have come before the line of an ended trial
    log, begin = GrowthLog(workdir, cfg), time.perf_counter()
    for moved, pool in horizons(lm, texts, cfg, growth, trials, read_flight(workdir)):
        trials |= {trial.text.seed_id: trial for trial in moved}
        flight = in_flight(pool, trials)
        log.add((trials | _as_trials(flight, trials)).values())
        store(moved)
        write_flight(workdir, flight)
        now = time.perf_counter()
        seconds, begin = now - begin, now
        report(_progress(trials, len(ledger.records), pool, cfg, seconds))
    ledger.merge()
    if is_first():
        (workdir / FLIGHT).unlink(missing_ok=True)
    barrier()
    return [ledger.records[i] for i in sorted(ledger.records)]


def horizons_so_far(
    lm: LanguageModel, texts: Sequence[Text], cfg: CramConfig, workdir: epath.Path
) -> list[Record]:
    """Returns a record of every text in a run that was stopped, in the order of `texts`.

    They are records as in horizons.jsonl, decoded from the memories that the run has saved.
    A text with `failed` None is still growing, and its horizon is a lower bound.
    """
    known = Ledger(workdir / RECORDS).records
    trials = {text.seed_id: _load_trial(workdir, text, cfg) for text in texts}
    flight = read_flight(workdir)
    if flight is not None:
        trials |= _as_trials(flight, trials)
    growing = [trial for i, trial in trials.items() if i not in known]
    records = known | {record["seed_id"]: record for record in _records(lm, growing, cfg)}
    return [records[text.seed_id] for text in texts]


def _as_trials(flight: Snapshot, trials: Mapping[int, Trial]) -> dict[int, Trial]:
    """Returns the trials of the texts in flight, each with its best memory so far.

    A trial is left out if it has the result of this target already, which happens when a
    kill came between the two writes.
    """
    found = {}
    prefixes, memories = flight["state.best_prefix"], flight["state.best_memory"]
    for slot, (i, (num_targets, _)) in enumerate(
        zip(flight["ids"].tolist(), flight["targets"].tolist(), strict=True)
    ):
        flies = i in trials and trials[i].num_targets == num_targets
        if not flies or f"losses/{slot}" not in flight:
            continue
        trial, steps = trials[i], len(flight[f"losses/{slot}"])
        trial = dataclasses.replace(
            trial,
            steps=trial.steps + steps,
            token_steps=trial.token_steps + int(flight["token_steps"][slot]),
        )
        if (prefix := int(prefixes[slot])) > trial.exact:
            trial = dataclasses.replace(trial, exact=prefix, memory=memories[slot])
        found[i] = trial
    return found


def _progress(
    trials: Mapping[int, Trial], num_done: int, pool: Pool, cfg: CramConfig, seconds: float
) -> HorizonProgress:
    """Returns the progress of a run after a chunk that took `seconds`."""
    flying = {flown.seed_id: flown for flown in pool.flying()}
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
    """Returns the records of horizons.jsonl.

    A horizon counts what a user gets back: the leading tokens of the text that greedy
    decoding of its stored memory gives. `horizon_teacher_forced` is what the optimiser saw.
    """
    if not ended:
        return []
    pad_to = max(len(trial.text.tokens) for trial in ended)
    held = [trial for trial in ended if trial.memory is not None]
    found = _decoded_prefixes(lm, held, cfg, pad_to)
    tokens = [trial.text.tokens for trial in ended]
    without = baselines(
        lm, tokens, num_given=cfg.num_given, pad_to=pad_to, vocab_chunk=cfg.vocab_chunk
    )
    losses = _losses_after_memory(lm, held, cfg, pad_to)
    records = []
    for trial, baseline in zip(ended, without, strict=True):
        i = trial.text.seed_id
        horizon, rounded = found.get(i, (0, 0))
        nats = float(np.nansum(baseline.surprise_nats[:horizon], dtype=np.float64))
        gain = nats
        if i in losses:
            gain -= float(np.sum(losses[i][cfg.num_given : horizon], dtype=np.float64))
        records.append(
            {
                "text_id": trial.text.text_id,
                "seed_id": i,
                "source": trial.text.source,
                "source_sha256": trial.text.source_sha256,
                "text_sha256": text_sha256(trial.text.tokens),
                "num_tokens": len(trial.text.tokens),
                "num_memory": cfg.way.rows(cfg.num_memory),
                "memory": cfg.memory,
                "num_parameters": cfg.way.rows(cfg.num_memory) * cfg.way.width(lm.module),
                "protocol": cfg.protocol,
                "horizon": horizon,
                "horizon_bfloat16": rounded,
                "horizon_teacher_forced": trial.exact,
                "text_comes_back": trial.text.beginning(horizon).comes_back,
                "horizon_nats": nats,
                "horizon_bits": nats * BITS_PER_NAT,
                "information_gain_nats": gain,
                "information_gain_bits": gain * BITS_PER_NAT,
                "exact_greedy": horizon >= trial.exact > 0,
                "exact_greedy_bfloat16": rounded >= trial.exact > 0,
                "failed": trial.failed,
                "diverged_at": trial.diverged_at,
                "steps": trial.steps,
                "token_steps": trial.token_steps,
                "num_targets": trial.num_targets,
                "memory_file": _trial_name(trial.text),
            }
        )
    return records


def _decoded_prefixes(
    lm: LanguageModel, held: Sequence[Trial], cfg: CramConfig, pad_to: int
) -> dict[int, tuple[int, int]]:
    """By `seed_id`, the number of leading tokens that greedy decoding gives.

    The first number is that of the stored memory, the second that of the memory after
    rounding to bfloat16.
    """
    decoded = decode_stored(lm, [_memory(trial, lm, cfg) for trial in held], pad_to)
    return {
        trial.text.seed_id: (
            common_prefix(plain, trial.text.tokens),
            common_prefix(rounded, trial.text.tokens),
        )
        for trial, (plain, rounded) in zip(held, decoded, strict=True)
    }


def _losses_after_memory(
    lm: LanguageModel, held: Sequence[Trial], cfg: CramConfig, pad_to: int
) -> dict[int, Float[np.ndarray, "T"]]:
    """By `seed_id`, the cross-entropy of each token given the memory and earlier tokens."""
    if not held:
        return {}
    tokens = np.zeros((len(held), pad_to), np.int32)
    for of_text, trial in zip(tokens, held, strict=True):
        of_text[: len(trial.text.tokens)] = trial.text.tokens
    memory = np.stack([np.asarray(trial.memory) for trial in held])
    # float32, as the surprise is: more digits would vary with the texts of the same batch.
    scores = scores_given_memory(lm, memory, tokens, cfg.memory)
    losses = scores.loss.astype(np.float32)
    return {t.text.seed_id: loss for t, loss in zip(held, losses, strict=True)}


def _memory(trial: Trial, lm: LanguageModel, cfg: CramConfig) -> Memory:
    given = tuple(int(t) for t in trial.text.tokens[: cfg.num_given])
    assert trial.memory is not None
    return Memory(
        memory=trial.memory,
        num_tokens=len(trial.text.tokens),
        given=given,
        protocol=cfg.protocol,
        source=trial.text.source,
        way=cfg.memory,
        lm_name=lm.name,
        lm_fingerprint=lm.fingerprint,
    )


def _trial_name(text: Text) -> str:
    return f"{TRIALS}/{text.seed_id:08d}.safetensors"


def _save_trial(workdir: epath.Path, trial: Trial) -> None:
    arrays = {}
    if trial.memory is not None:
        # No leaves where there is no optimiser state to resume from.
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
    opt_state = jax.tree.unflatten(jax.tree.structure(template), leaves) if leaves else None
    return Trial(text, memory=arrays["memory"], opt_state=opt_state, **counts)
