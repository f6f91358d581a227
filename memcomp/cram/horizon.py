"""Horizons: the longest prefix of each text that comes back exactly.

With a recipe that grows, the whole text is the target, and its longest exact prefix is the
horizon: the loop itself looks no further than it has to.

With any other recipe, a text has one target at a time, a prefix to reproduce. A longer
target starts from the memory and the optimiser state of the exact prefix before it; the
schedule and `max_steps` start again. Texts with targets of different lengths share a batch.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from memcomp.cram.config import CramConfig
from memcomp.cram.group import check_alone
from memcomp.cram.objective import SHORT
from memcomp.cram.pool import EMPTY, Pool, Snapshot
from memcomp.cram.result import CramResult
from memcomp.cram.schedule import check_fits
from memcomp.cram.state import CramState, first_tokens, init_states
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.ranges import check_count, check_number
from memcomp.sharding import fetch, on_mesh


@dataclasses.dataclass(frozen=True)
class Growth:
    """Rule that chooses the next target of a text, with a recipe that does not grow.

    Attributes:
      first: length of the first target in tokens.
      factor: growth from an exact target to the next. 1 adds one token until the first
        failure (Progressive Cramming). A larger factor multiplies the length; after the
        first failure, targets bisect the range between the longest exact prefix and the
        shortest failed target.
      most: length of the longest target in tokens, with any recipe; None for the whole
        text.

    Raises:
      InputError: a value out of its range.
    """

    first: int = 1
    factor: float = 2.0
    most: int | None = None

    def __post_init__(self):
        check_count("growth.first", self.first)
        check_count("growth.most", 1 if self.most is None else self.most)
        check_number("growth.factor", self.factor)
        if self.factor < 1:
            raise InputError(f"growth.factor is {self.factor}; it must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Trial:
    """State of the search for the horizon of one text.

    Attributes:
      text: the whole text.
      exact: length of the longest exact prefix so far; the horizon, once `next_target`
        returns None.
      failed: length of the shortest target that failed; None while none has.
      steps: number of gradient evaluations so far.
      token_steps: tokens that these evaluations computed, summed.
      num_targets: number of targets tried.
      diverged_at: step at which the loss of the latest target was not finite; None if it
        was finite at all steps.
      memory: float32 [M W] that reproduces the first `exact` tokens; None while `exact` is
        0.
      opt_state: final optimiser state of the target that gave `exact`; None if that target
        diverged.
    """

    text: Text
    exact: int = 0
    failed: int | None = None
    steps: int = 0
    token_steps: int = 0
    num_targets: int = 0
    diverged_at: int | None = None
    memory: np.ndarray | None = None
    opt_state: Any = dataclasses.field(default=None, repr=False)

    def after(self, result: CramResult, grows: bool) -> "Trial":
        """Returns the trial updated with the result of one more target.

        Even a target that failed may give a longer exact prefix than before. With a recipe
        that `grows`, the shortest failed target is the exact prefix plus one token, because
        all remaining steps were spent on that token.
        """
        tried = dataclasses.replace(
            self,
            steps=self.steps + result.steps,
            token_steps=self.token_steps + result.token_steps,
            num_targets=self.num_targets + 1,
            diverged_at=result.diverged_at,
        )
        exact = result.num_tokens if result.exact else result.prefix
        if exact > max(self.exact, result.num_given):
            opt_state = result.opt_state if result.diverged_at is None else None
            tried = dataclasses.replace(
                tried, exact=exact, memory=result.memory, opt_state=opt_state
            )
        if result.exact:
            return tried
        frontier = max(tried.exact, result.num_given) + 1
        failed = frontier if grows else result.num_tokens
        return dataclasses.replace(tried, failed=failed)


def next_target(trial: Trial, growth: Growth, cfg: CramConfig) -> int | None:
    """Returns the length of the next target in tokens; None once the horizon is known.

    Args:
      trial: state of the search.
      growth: rule that chooses the next target.
      cfg: its recipe has one target if it grows, and its protocol says how many leading
        tokens are not scored; every target is longer than these.
    """
    length = len(trial.text.tokens)
    most = length if growth.most is None else min(length, growth.most)
    low = max(trial.exact, cfg.num_given)
    if low >= most:
        return None
    if cfg.resolved_recipe().grows:
        return most if trial.failed is None else None
    if trial.failed is not None:
        done = growth.factor == 1 or trial.failed - low <= 1
        return None if done else (low + trial.failed) // 2
    longer = max(low + 1, int(trial.exact * growth.factor), growth.first)
    return min(longer, most)


def horizons(
    lm: LanguageModel,
    texts: Sequence[Text],
    cfg: CramConfig,
    growth: Growth,
    trials: Mapping[int, Trial] | None = None,
    flight: Snapshot | None = None,
) -> Iterator[tuple[list[Trial], Pool]]:
    """Finds the horizon of every text.

    After each chunk it yields the trials whose target ended in it, and the pool. Only a few
    padded lengths are compiled: with a recipe that does not grow, all texts try the targets
    that fit into one padded length before any goes on to the next length.

    Args:
      lm: the frozen language model.
      texts: texts with distinct `seed_id`s, cut to the longest prefix that is to be tried.
      cfg: what to cram and how; `num_tokens` is ignored.
      growth: rule that chooses the next target.
      trials: trials by `seed_id`, from an earlier call that was stopped.
      flight: what `in_flight` returned in that call; None to start its targets again.

    Raises:
      InputError: a text is too long for the LM.

    Source: Progressive Cramming, 2026 (growth by one token, warm start).
    """
    check_fits(lm, texts, cfg)
    check_alone(cfg, "a horizon")
    cfg = cfg.on(lm)
    found = {text.seed_id: Trial(text) for text in texts} | dict(trials or {})
    target = {i: next_target(trial, growth, cfg) for i, trial in found.items()}
    pad = SHORT
    if cfg.resolved_recipe().grows:
        pad = max([SHORT, *(tokens or 0 for tokens in target.values())])
    if flight is not None:
        pad, flight = int(flight["num_tokens"]), _still_flying(flight, found, target)
    while any(target.values()):
        here = [i for i, tokens in target.items() if tokens and tokens <= pad]
        if here:
            yield from _up_to(lm, cfg, growth, pad, here, found, target, flight)
        pad, flight = pad * 4 // 3, None


def in_flight(pool: Pool, trials: Mapping[int, Trial]) -> dict[str, np.ndarray]:
    """Returns what `horizons` needs besides the trials to resume in the middle of targets.

    Args:
      pool: the pool that the last chunk yielded.
      trials: trials of all texts after that chunk, by `seed_id`.
    """
    flying = {flown.seed_id: flown for flown in pool.flying()}
    snapshot = pool.snapshot()
    targets = [
        (trials[i].num_targets, flying[i].num_tokens) if i in flying else (0, 0)
        for i in snapshot["ids"].tolist()
    ]
    return snapshot | {
        "num_tokens": np.array(pool.num_tokens),
        "targets": np.array(targets, np.int64),
    }


def _still_flying(
    flight: Snapshot, trials: Mapping[int, Trial], target: Mapping[int, int | None]
) -> Snapshot:
    """Empties the batch slots of `flight` whose target is not the next one of its trial.

    A kill between the two writes leaves the trials of one chunk beside the flight of the
    chunk before it. A trial may then have the result of a target that is still in flight,
    and this result must not count twice. A `Growth` with another `most` also changes
    targets.
    """
    ids = flight["ids"].tolist()
    flies = [
        i in trials and (trials[i].num_targets, target[i]) == tuple(of_slot)
        for i, of_slot in zip(ids, flight["targets"].tolist(), strict=True)
    ]
    return dict(flight) | {"ids": np.where(flies, ids, EMPTY)}


def _up_to(
    lm: LanguageModel,
    cfg: CramConfig,
    growth: Growth,
    pad: int,
    ids: list[int],
    found: dict[int, Trial],
    target: dict[int, int | None],
    flight: Snapshot | None,
) -> Iterator[tuple[list[Trial], Pool]]:
    """Tries the targets of `ids` up to `pad` tokens; updates `found` and `target`."""
    starts = {i: _start(lm, cfg, found[i]) for i in ids if found[i].exact}
    first = [_prefix(found[i].text, target[i]) for i in ids]
    pool = Pool(lm, first, cfg, snapshot=flight, num_tokens=pad, starts=starts)
    grows = cfg.resolved_recipe().grows
    while pool.num_flying:
        moved = []
        for result in pool.advance():
            i = result.seed_id
            found[i] = trial = found[i].after(result, grows)
            target[i] = following = next_target(trial, growth, cfg)
            moved.append(trial)
            if following and following <= pad:
                pool.submit(_prefix(trial.text, following), _start(lm, cfg, trial))
        yield moved, pool


def _prefix(text: Text, num_tokens: int | None) -> Text:
    return dataclasses.replace(text, tokens=text.tokens[:num_tokens])


def _start(lm: LanguageModel, cfg: CramConfig, trial: Trial) -> CramState | None:
    """Returns the state in which the next target starts; None for a fresh memory."""
    if trial.memory is None:
        return None
    ids = np.array([trial.text.seed_id], np.int32)
    with on_mesh(lm.mesh):
        options = {"module": lm.module, "cfg": cfg}
        first = first_tokens([trial.text.tokens], cfg)
        fresh = init_states(ids, lm.params, **options, tokens=first)
    fresh = jax.tree.map(lambda leaf: leaf[0], fetch(fresh))
    state = fresh._replace(
        memory=trial.memory,
        best_memory=trial.memory,
        opt_state=fresh.opt_state if trial.opt_state is None else trial.opt_state,
    )
    if not cfg.resolved_recipe().grows:
        return state
    # The first step looks past the prefix that is exact already.
    return state._replace(step=np.int32(trial.steps), best_prefix=np.int32(trial.exact))
