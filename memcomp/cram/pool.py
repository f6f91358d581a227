"""The cramming loop on the host: a pool of batch slots that waiting texts pass through.

All texts in flight are padded to one length and share one compiled program. Between two
chunks, the slots of finished texts go to waiting ones, and the next program may have
another length or another number of slots (`memcomp.cram.program_size`).

On a mesh the slots are sharded over its devices. With several processes, each runs the same
pool; what the host decides by is gathered to all processes, so that all decide the same.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_chunk, score_memories
from memcomp.cram.objective import looked_at
from memcomp.cram.program_size import padded_length, pays, step_flops
from memcomp.cram.rates import TRIES, stuck_at
from memcomp.cram.result import CramResult
from memcomp.cram.slot import NEVER, Slot
from memcomp.cram.state import CramState, first_tokens, init_states, put_states, take_states
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import GROUP, grouped
from memcomp.sharding import fetch, on_mesh, put_rows, row_multiple, row_owners

EMPTY = -1  # `seed_id` of an empty batch slot


Snapshot = Mapping[str, np.ndarray]
# Arrays of every snapshot, beside those of the states (`Pool._restore`) and of each text.
SNAPSHOT = frozenset(("ids", "wasted", "waiting", "seconds", "token_steps"))


class Flying(NamedTuple):
    """Progress of a text in flight.

    Attributes:
      seed_id: `seed_id` of the text.
      num_tokens: length of the text in tokens.
      prefix: exact prefix of its best memory so far, in tokens.
      steps_left: steps until the text is given up, if it makes no progress from here on.
      token_steps: tokens that its steps have computed, summed.
    """

    seed_id: int
    num_tokens: int
    prefix: int
    steps_left: int
    token_steps: int


class Pool:
    """Texts in flight in the slots of a batch, and a queue of waiting texts.

    Args:
      lm: the frozen language model.
      texts: texts in the order in which they get a slot.
      cfg: what to cram and how.
      done: `seed_id`s of texts that have a result already and are skipped.
      snapshot: snapshot of an earlier pool of the same texts, which this one resumes.
      num_tokens: length to which texts are padded; None for that of the longest.
      starts: initial states by `seed_id`, each of one text; others get `init_states`.

    Attributes:
      num_tokens: length to which texts are padded; with a recipe that grows, at the most.
      last_steps: gradient evaluations of the last chunk, summed over texts.
      last_token_steps: number of tokens that these evaluations computed, summed.
    """

    def __init__(
        self,
        lm: LanguageModel,
        texts: Sequence[Text],
        cfg: CramConfig,
        done: Collection[int] = (),
        snapshot: Snapshot | None = None,
        num_tokens: int | None = None,
        starts: Mapping[int, CramState | None] | None = None,
    ):
        self._lm, self._cfg = lm, cfg.on(lm)
        self._num_params = sum(leaf.size for leaf in jax.tree.leaves(lm.params))
        self._wasted = 0.0  # FLOPs of empty slots since the pool had this size
        self._starts = dict(starts or {})
        self.num_tokens = num_tokens or max(len(text.tokens) for text in texts)
        self.last_steps = self.last_token_steps = 0
        self._slots: list[Slot | None]
        if snapshot is not None:
            self._restore({text.seed_id: text for text in texts}, snapshot)
        else:
            self._slots = [None] * self._whole(min(cfg.batch_size, len(texts)))
            self._states = self._fresh_states()
        flying = {slot.text.seed_id for slot in self._slots if slot}
        skip = flying | set(done)
        self._waiting = [text for text in texts if text.seed_id not in skip]
        if snapshot is not None:
            order = {int(i): rank for rank, i in enumerate(snapshot["waiting"])}
            last = len(order)
            self._waiting.sort(key=lambda text: order.get(text.seed_id, last))
        self._refill()

    @property
    def num_flying(self) -> int:
        """Number of texts in flight."""
        return sum(slot is not None for slot in self._slots)

    def advance(self) -> list[CramResult]:
        """Runs one chunk, refills the slots of ended texts, and returns their results."""
        begin = time.perf_counter()
        self.last_steps = self.last_token_steps = 0
        before = fetch(self._states.step)
        tokens, lengths = put_rows(self._batch(), self._lm.mesh)
        with on_mesh(self._lm.mesh):
            self._states, curves = cram_chunk(
                self._states,
                tokens,
                lengths,
                self._lm.params,
                module=self._lm.module,
                cfg=self._cfg,
            )
        curves = fetch(curves)
        first_right = curves.pop("first_right")
        steps = fetch(self._states.step) - before
        share = (time.perf_counter() - begin) / self.num_flying
        for i, slot in enumerate(self._slots):
            if slot is None:
                continue
            slot.seconds += share
            self.last_token_steps -= slot.token_steps
            seen = {name: curve[:, i] for name, curve in curves.items()}
            slot.note(int(steps[i]), **seen, first_right=first_right[i])
            self.last_steps += int(steps[i])
            self.last_token_steps += slot.token_steps
        finished = self._collect()
        self._refill()
        self._shrink()
        return finished

    def submit(self, text: Text, start: CramState | None) -> None:
        """Puts a text before the waiting ones; it starts from `start` if there is one."""
        self._starts[text.seed_id] = start
        self._waiting.insert(0, text)
        self._refill()

    def flying(self) -> list[Flying]:
        """Returns the progress of every text in flight."""
        names = ("best_prefix", "stale", "step")
        prefix, stale, step = fetch([getattr(self._states, name) for name in names])
        recipe = self._cfg.resolved_recipe()
        stuck = stuck_at(recipe.stuck_after, recipe.patience, prefix)
        left = np.minimum(recipe.patience + TRIES * stuck - stale, recipe.max_steps - step)
        return [
            Flying(
                seed_id=slot.text.seed_id,
                num_tokens=len(slot.text.tokens),
                prefix=max(int(prefix[i]), 0),
                steps_left=int(left[i]),
                token_steps=slot.token_steps,
            )
            for i, slot in enumerate(self._slots)
            if slot
        ]

    def mean_loss(self) -> float | None:
        """Mean loss of the texts in flight at their last step; None before the first."""
        last = [p.losses[-1][-1] for p in self._slots if p and p.losses]
        return float(np.mean(last)) if last else None

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns what is needed to resume from here, as named copies of all arrays.

        A snapshot does not depend on the devices and can be resumed on any mesh.
        """
        states = fetch(self._states)
        arrays = {f"state{key}": value for key, value in _named_leaves(states)}
        ids = [slot.text.seed_id if slot else EMPTY for slot in self._slots]
        arrays["ids"] = np.array(ids, np.int64)
        arrays["wasted"] = np.array(self._wasted)
        arrays["waiting"] = np.array([text.seed_id for text in self._waiting], np.int64)
        arrays["seconds"] = np.array([p.seconds if p else 0.0 for p in self._slots])
        arrays["token_steps"] = np.array([p.token_steps if p else 0 for p in self._slots])
        for i, slot in enumerate(self._slots):
            if slot is not None and slot.losses:
                arrays[f"first_right/{i}"] = slot.first_right
                arrays[f"losses/{i}"] = np.concatenate(slot.losses)
                arrays[f"accuracies/{i}"] = np.concatenate(slot.accuracies)
        return arrays

    def _restore(self, texts: Mapping[int, Text], snapshot: Snapshot) -> None:
        ids = [int(i) for i in snapshot["ids"]]
        self._wasted = float(snapshot["wasted"])
        self._slots = [None] * self._whole(len(ids))
        for i, seed_id in enumerate(ids):
            if seed_id == EMPTY:
                continue
            slot = Slot.of(texts[seed_id])
            slot.seconds = float(snapshot["seconds"][i])
            slot.token_steps = int(snapshot["token_steps"][i])
            if f"losses/{i}" in snapshot:
                slot.first_right = snapshot[f"first_right/{i}"]
                slot.losses.append(snapshot[f"losses/{i}"])
                slot.accuracies.append(snapshot[f"accuracies/{i}"])
            self._slots[i] = slot
        # Slots beyond those of the snapshot are empty, as they are in fresh states.
        fresh = fetch(self._fresh_states())
        for key, leaf in _named_leaves(fresh):
            saved = snapshot.get(f"state{key}")
            if saved is None or saved.shape[1:] != leaf.shape[1:]:
                raise InputError(
                    f"the state{key} of the texts in flight is not as this version of "
                    "memcomp makes it; remove in_flight.safetensors of the run, and the "
                    "texts in flight begin anew"
                )
            leaf[: len(ids)] = saved
        self._states = put_rows(fresh, self._lm.mesh)

    def _whole(self, num_slots: int) -> int:
        """Rounds a number of slots up to one that the mesh shards into equal parts."""
        multiple = row_multiple(self._lm.mesh)
        return -(-num_slots // multiple) * multiple

    def _fresh_states(self) -> CramState:
        """Returns the initial states of the texts in the slots; empty slots are done."""
        lm = self._lm
        ids = np.array([p.text.seed_id if p else 0 for p in self._slots], np.int32)
        none = np.zeros(0, np.int32)
        texts = [slot.text.tokens if slot else none for slot in self._slots]
        first = first_tokens(texts, self._cfg)
        with on_mesh(lm.mesh):
            ids, first = put_rows((ids, first), lm.mesh)
            options = {"module": lm.module, "cfg": self._cfg, "tokens": first}
            states = init_states(ids, lm.params, **options)
        empty = np.array([p is None for p in self._slots])
        states = states._replace(done=put_rows(empty, lm.mesh))
        starts = {
            i: start
            for i, slot in enumerate(self._slots)
            if slot and (start := self._starts.get(slot.text.seed_id))
        }
        return self._with_rows(states, starts) if starts else states

    def _with_rows(self, states: CramState, rows: Mapping[int, CramState]) -> CramState:
        """Returns `states` with the states of the slots in `rows` replaced."""
        states = fetch(states)
        for i, row in rows.items():
            for leaf, value in zip(*map(jax.tree.leaves, (states, row)), strict=True):
                leaf[i] = value
        return put_rows(states, self._lm.mesh)

    def _refill(self) -> None:
        free = [i for i, slot in enumerate(self._slots) if slot is None]
        taken = free[: len(self._waiting)]
        if not taken:
            return
        for i in taken:
            self._slots[i] = Slot.of(self._waiting.pop(0))
        mask = np.isin(np.arange(len(self._slots)), taken)
        fresh = self._fresh_states()
        with on_mesh(self._lm.mesh):
            self._states = put_states(self._states, fresh, mask)

    def _shrink(self) -> None:
        """Drops half of the slots, or more, once empty ones have cost a compilation.

        Empty slots cost as much time as others, but fewer slots need another compilation.
        How long the texts in flight will still take is unknown. Waiting until the waste
        equals one compilation costs at most twice as much as the best choice would. Work is
        counted in FLOPs and not timed, so that a resumed run has the same sizes.
        """
        flying = [i for i, slot in enumerate(self._slots) if slot is not None]
        if not flying:
            return
        num_empty = len(self._slots) - len(flying)
        steps = num_empty * self._cfg.steps_per_chunk
        self._wasted += step_flops(self._num_params, self._padded_length() * steps)
        size = len(self._slots)
        while size > 1 and len(flying) <= (half := self._whole(size // 2)) < size:
            size = half
        if size == len(self._slots) or not pays(self._wasted):
            return
        self._wasted = 0.0
        keep = flying + [i for i, p in enumerate(self._slots) if p is None]
        keep = keep[:size]
        self._slots = [self._slots[i] for i in keep]
        with on_mesh(self._lm.mesh):
            self._states = take_states(self._states, np.array(keep, np.int32))

    def _padded_length(self) -> int:
        """The length of the next chunk's program: not below what any text looks at."""
        recipe = self._cfg.resolved_recipe()
        if not recipe.grows:
            return self.num_tokens
        lengths = np.array([len(p.text.tokens) if p else 0 for p in self._slots])
        # At the most; a text that grows past the program's length waits for the end of the
        # chunk.
        prefixes = fetch(self._states.best_prefix) + self._cfg.steps_per_chunk // 4
        needed = int(looked_at(lengths, prefixes, 0, recipe.ahead).max())
        sizes = len(self._slots), self._num_params
        return padded_length(needed, self.num_tokens, *sizes)

    def _batch(self) -> tuple[np.ndarray, np.ndarray]:
        padded = self._padded_length()
        tokens = np.zeros((len(self._slots), padded), np.int32)
        # Empty slots get a full-length dummy text, so that no mean divides by zero.
        lengths = np.full(len(self._slots), padded, np.int32)
        for i, slot in enumerate(self._slots):
            if slot is not None:
                lengths[i] = len(slot.text.tokens)
                given = slot.text.tokens[:padded]
                tokens[i, : len(given)] = given
        return tokens, lengths

    def _collect(self) -> list[CramResult]:
        done = fetch(self._states.done)
        ended = [(i, slot) for i, slot in enumerate(self._slots) if slot and done[i]]
        if not ended:
            return []
        states = fetch(self._states)
        if self._cfg.resolved_recipe().grows:
            self._score_whole(states, ended)
        owners = row_owners(len(self._slots), self._lm.mesh)
        for i, _ in ended:
            self._slots[i] = None
        return [self._result(slot, states, i, owners[i]) for i, slot in ended]

    def _score_whole(self, states: Any, ended: Sequence[tuple[int, Slot]]) -> None:
        """Writes into `states` the scores of the best memories of `ended` on whole texts.

        The steps that found these memories may have scored only the beginnings.
        """
        measured = [
            (i, slot.text.tokens) for i, slot in ended if states.best_accuracy[i] >= 0
        ]
        for group in grouped(measured):
            group += [group[-1]] * (GROUP - len(group))
            tokens = np.zeros((GROUP, self.num_tokens), np.int32)
            for row, (_, text) in zip(tokens, group, strict=True):
                row[: len(text)] = text
            memory = states.best_memory[[i for i, _ in group]]
            lengths = np.array([len(text) for _, text in group], np.int32)
            scores = self._lm.run(
                score_memories, memory, tokens, lengths, cfg=self._cfg.program()
            )
            loss, accuracy, margin = fetch(scores)
            for row, (i, _) in enumerate(group):
                states.best_loss[i] = loss[row]
                states.best_accuracy[i] = accuracy[row]
                states.best_margin[i] = margin[row]

    def _result(self, slot: Slot, states: Any, i: int, owner: int) -> CramResult:
        """Makes the result of the text in slot `i`; `states` are copies in host memory."""
        first_right = slot.first_right.copy()
        first_right[: self._cfg.num_given] = NEVER
        return CramResult(
            text_id=slot.text.text_id,
            restart=slot.text.restart,
            seed_id=slot.text.seed_id,
            source=slot.text.source,
            tokens=slot.text.tokens,
            memory=states.best_memory[i].copy(),
            num_parameters=states.best_memory[i].size,
            # A text that diverged in its first step has no score, which states hold as -1.
            accuracy=max(float(states.best_accuracy[i]), 0.0),
            prefix=max(int(states.best_prefix[i]), 0),
            loss_nats=float(states.best_loss[i]),
            min_loss_nats=float(states.min_loss[i]),
            margin=float(states.best_margin[i]),
            steps=slot.steps,
            token_steps=slot.token_steps,
            protocol=self._cfg.protocol,
            num_given=self._cfg.num_given,
            way=self._cfg.memory,
            lm_name=self._lm.name,
            lm_fingerprint=self._lm.fingerprint,
            seconds=slot.seconds,
            loss_curve=np.concatenate(slot.losses),
            accuracy_curve=np.concatenate(slot.accuracies),
            first_right_steps=first_right,
            opt_state=jax.tree.map(lambda leaf: leaf[i].copy(), states.opt_state),
            process=owner,
            diverged_at=int(states.step[i]) if states.failed[i] else None,
            comes_back=slot.text.comes_back,
        )


def _named_leaves(states: CramState) -> list[tuple[str, np.ndarray]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(states)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
