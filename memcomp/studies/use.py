"""Whether the LM can use memory, not only decode it: how well it predicts what follows.

Baselines put real tokens from before the text, or a copy of the text, in place of memory.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.data.tokens import text_to_ids
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import score_after, start
from memcomp.metrics.capacity import Estimate, estimate
from memcomp.runs.files import Record
from memcomp.studies.prefixes import Crammed

COPY_PROMPT = ("text: ", "\nrepeat previous text: ")
# By kind of study: fields that all records of one mean share, and whether texts that are
# not decoded exactly are left out, since their memory does not hold the text.
SHARED = {
    "attention": (("condition", "layer"), True),
    "knockout": (("condition", "first", "last"), True),
    "use": (("condition",), True),
    "context": (("condition", "num_context"), False),
}


def use_study(lm: LanguageModel, crammed: Crammed) -> list[Record]:
    """Returns scores of the true continuation of each text under several conditions.

    `condition` says what the LM reads before the continuation. "nothing": the start token.
    "text": the start token and the text. "memory": memory, which was optimised to predict
    the text next and not its continuation. "memory, text": memory and the tokens decoded
    from it, which are the text if it is exact. "other memory" and "other memory, text":
    the memory of the next text in its place, without and with the text.

    Losses are means over the tokens of the continuation, teacher-forced.

    Raises:
      InputError: there are fewer than two texts, or the LM has too few positions.
    """
    if len(crammed.tokens) < 2:
        raise InputError(
            "there is one text, and the memory of another is wanted beside its own; give "
            "2 texts or more"
        )
    memory, tokens = crammed.memory, crammed.tokens
    other = np.roll(memory, -1, axis=0)
    first = start(lm, len(tokens))
    decoded = decode(lm, memory, tokens.shape[1], way=crammed.way)
    conditions = {
        "nothing": (None, first),
        "text": (None, first, tokens),
        "memory": (memory,),
        "memory, text": (memory, decoded),
        "other memory": (other,),
        "other memory, text": (other, tokens),
    }
    records = []
    for condition, parts in conditions.items():
        prefix, cached = crammed.reads(lm, *parts)
        scores = score_after(lm, prefix, crammed.after, cached=cached)
        same = {"condition": condition, "num_scored": crammed.after.shape[1]}
        records += crammed.records(scores.columns(), **same)
    return records


def context_study(
    lm: LanguageModel, crammed: Crammed, before: Sequence[int]
) -> list[Record]:
    r"""Returns scores of the text itself, teacher-forced, after memory and other prefixes.

    `condition` names the prefix: "memory"; "nothing", the start token; "before", it and the
    last k real tokens before the text, for each k of `before`; "doubled", it and the text;
    "copy", it and the text between the two parts of COPY_PROMPT, if there is a tokenizer.
    `num_context` is the number of vectors before the text, without the start token.

    Raises:
      InputError: there are not so many tokens before the text, or too many for the LM.

    Source: the ablations in the notebooks of Kuratov et al. 2025, arXiv:2502.13063, which
      give 64 to 1,024 tokens before; `text: {t}\nrepeat previous text: ` is theirs.
    """
    B, C = crammed.before.shape
    if any(not 0 <= k <= C for k in before):
        raise InputError(f"tokens before a text are {list(before)}; give 0 to {C}")
    first, tokens = start(lm, B), crammed.tokens
    conditions = [("memory", (crammed.memory,)), ("nothing", (None, first))]
    conditions += [("before", (None, first, crammed.before[:, C - k :])) for k in before]
    conditions += [("doubled", (None, first, tokens))]
    if lm.tokenizer is not None:
        head, middle = (_repeated(lm, part, B) for part in COPY_PROMPT)
        conditions += [("copy", (None, first, head, tokens, middle))]
    records = []
    for condition, parts in conditions:
        prefix, cached = crammed.reads(lm, *parts)
        columns = score_after(lm, prefix, tokens, cached=cached).columns()
        num_context = prefix.shape[1] - first.shape[1]
        if condition == "memory":
            num_context = crammed.memory.shape[1]
        same = {"condition": condition, "num_context": num_context}
        records += crammed.records(columns, **same)
    return records


def check_use(
    lm: LanguageModel,
    cfg: CramConfig,
    *,
    num_texts: int,
    num_tokens: int,
    before: Sequence[int],
    num_after: int,
) -> None:
    """Raises an `InputError` if one of the studies would, before anything is crammed.

    Args:
      lm: the language model.
      cfg: how the texts are crammed.
      num_texts: number of texts (B).
      num_tokens: number of tokens of a text.
      before: numbers of tokens before the text that replace memory.
      num_after: number of tokens of the continuation.
    """
    cfg.way.before(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.int32))
    if not all(isinstance(number, int) for number in before):
        raise InputError(f"before is {tuple(before)}; give numbers of tokens")
    for name, value, least in (
        ("num_texts", num_texts, 2),  # so that there is a memory of another text
        ("num_tokens", num_tokens, 1),
        ("after", num_after, 1),
        ("before", min(before, default=0), 0),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; give {least} or more")
    prompt = 0
    if lm.tokenizer is not None:
        prompt = sum(_repeated(lm, part, 1).shape[1] for part in COPY_PROMPT)
    in_front = max(prompt + num_tokens, *before, 0)
    behind = cfg.way.num_positions(cfg.num_memory, num_tokens + num_after)
    wanted = max(in_front + num_tokens, behind)
    if wanted > lm.config.max_positions:
        raise InputError(
            f"the longest context, text and continuation need {wanted} positions, and "
            f"{lm.name} has {lm.config.max_positions}; lower num_tokens, before or after"
        )


def _repeated(lm: LanguageModel, text: str, num_texts: int) -> np.ndarray:
    ids = text_to_ids(lm.tokenizer, text).astype(np.int32)
    return np.tile(ids, (num_texts, 1))


def means(
    kind: str,
    records: Iterable[Record],
    field: str,
    *,
    each: bool = False,
) -> dict[tuple, Estimate]:
    """Means over texts of a field of one study's records, in the order of the records.

    Args:
      kind: kind of the study, a key of SHARED; other records are ignored.
      records: records of one LM and one shape of memory and text.
      field: name of a field with a number or a list of numbers.
      each: whether each entry of a list gets its own mean, with its index at the end of the
        key; otherwise a list is averaged.

    Returns:
      Means by the values of the fields that SHARED names; None for a missing field.
    """
    found = {}
    for key, values in _values(kind, records, field).items():
        texts, table = np.array(list(values)), np.array(list(values.values()))
        columns = np.atleast_2d(table.T)
        if not each:
            found[key] = estimate(columns.mean(axis=0), texts)
        else:
            found |= {(*key, i): estimate(c, texts) for i, c in enumerate(columns)}
    return found


def differences(
    kind: str, records: Iterable[Record], field: str, against: str
) -> dict[tuple, Estimate]:
    """Same as `means`, of each text's difference from its value in condition `against`."""
    values = _values(kind, records, field)
    base = next((of for key, of in values.items() if key[0] == against), {})
    return {
        key: estimate(np.array([of[text] - base[text] for text in of]), np.array(list(of)))
        for key, of in values.items()
    }


def _values(kind: str, records: Iterable[Record], field: str) -> dict[tuple, dict]:
    """Values by the fields that SHARED names, and then by number of the text."""
    names, exact_only = SHARED[kind]
    found: dict[tuple, dict] = {}
    numbers: dict[tuple, int] = {}
    for r in records:
        if r["kind"] == kind and (r["exact"] or not exact_only):
            key = tuple(r.get(name) for name in names)
            text = numbers.setdefault((r["source"], r["text_id"]), len(numbers))
            found.setdefault(key, {})[text] = r[field]
    return found
