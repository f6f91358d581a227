"""Scheduling of texts: those of similar length share a pool and a compiled program."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import jax.numpy as jnp

from memcomp.cram.config import CramConfig
from memcomp.cram.group import apart, as_one, groups_of
from memcomp.cram.objective import SHORT
from memcomp.cram.pool import EMPTY, Pool, Snapshot
from memcomp.cram.result import CramResult
from memcomp.cram.state import CramState
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel


def buckets(texts: Sequence[Text]) -> list[list[Text]]:
    """Groups texts by length; the longest text of a bucket has at most 4/3 of the shortest.

    Padding then adds at most a third to the work of a bucket, and about three programs are
    compiled for each doubling of the length. Texts of up to `SHORT` tokens share one
    bucket, because compiling another program would cost more than their padding.
    """
    groups: list[list[Text]] = []
    for text in sorted(texts, key=lambda text: len(text.tokens)):
        longest = max(SHORT, len(groups[-1][0].tokens) * 4 // 3) if groups else 0
        if len(text.tokens) <= longest:
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups


def check_fits(lm: LanguageModel, texts: Sequence[Text], cfg: CramConfig) -> None:
    """Raises `InputError` for texts that cannot be crammed into this LM at all."""
    if not texts:
        raise InputError("there are no texts to cram; give at least one")
    if lm.dtype == jnp.float16:  # the only dtype in which sound parameters may overflow
        lm.logits(texts[0].tokens[None, :SHORT])
    way, most = cfg.way, lm.config.max_positions
    way.check(lm.module, cfg.num_memory)
    groups_of(texts, cfg)
    for text in texts:
        name = f"text {text.text_id} ({text.source})"
        if len(text.tokens) <= cfg.num_given:
            raise InputError(
                f"{name} has {len(text.tokens)} tokens, of which the protocol "
                f"{cfg.protocol} gives {cfg.num_given}; give at least one more"
            )
        least = cfg.num_given + 1
        if (over := way.num_positions(cfg.num_memory, least) - most) > 0:
            raise InputError(
                f"num_memory is {cfg.num_memory}, but the LM has {most} positions for "
                f"memory and text together; set num_memory to {cfg.num_memory - over} or "
                "less"
            )
        if (over := way.num_positions(cfg.num_memory, len(text.tokens)) - most) > 0:
            raise InputError(
                f"{name} has {len(text.tokens)} tokens, which with their memory need "
                f"{most + over} positions, but the LM has {most}; set num_tokens to "
                f"{len(text.tokens) - over} or less"
            )


def advance_all(
    lm: LanguageModel,
    texts: Sequence[Text],
    cfg: CramConfig,
    *,
    done: Collection[int] = (),
    snapshot: Snapshot | None = None,
    starts: Mapping[int, CramState] | None = None,
) -> Iterator[tuple[list[CramResult], Pool]]:
    """Crams all texts; after each chunk, yields the results of ended texts and the pool.

    Args:
      lm: the frozen language model.
      texts: texts with distinct `seed_id`s. Where one memory holds several, a group of
        them is crammed as one text and has a result for each.
      cfg: what to cram and how.
      done: `seed_id`s of texts that have a result already and are skipped.
      snapshot: `Pool.snapshot()` of a run that was stopped. Texts that have a result but
        are still in flight in the snapshot end with the same result again.
      starts: initial states by `seed_id`, see `Pool`.

    Raises:
      InputError: a text is too long for the LM.
    """
    check_fits(lm, texts, cfg)
    members = {as_one(group).seed_id: group for group in groups_of(texts, cfg)}
    done = {i for i, group in members.items() if {t.seed_id for t in group} <= set(done)}
    flying = set() if snapshot is None else {int(i) for i in snapshot["ids"]} - {EMPTY}
    margin = cfg.resolved_recipe().margin
    for bucket in buckets([as_one(group) for group in members.values()]):
        ids = {text.seed_id for text in bucket}
        here = snapshot if flying & ids else None
        if here is None and ids <= done:
            continue
        pool = Pool(lm, bucket, cfg, done, here, starts=starts)
        while pool.num_flying:
            ended = [
                apart(result, members[result.seed_id], lm, margin)
                for result in pool.advance()
            ]
            yield list(itertools.chain.from_iterable(ended)), pool
