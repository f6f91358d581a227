"""A run that crams passages of texts and studies how the LM uses their memory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.data.texts import Text
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.cramming import Progress, run_cramming
from memcomp.runs.files import Record, run_studies
from memcomp.studies.attention import attention_study, knockout_study
from memcomp.studies.prefixes import Crammed, read_crammed
from memcomp.studies.use import context_study, use_study

FILE = "use.jsonl"


def crammed_part(passages: Sequence[Text], before: Sequence[int], T: int) -> list[Text]:
    """Returns the T tokens of each passage to cram, after the first max(`before`)."""
    C = max(before, default=0)
    return [dataclasses.replace(p, tokens=p.tokens[C : C + T]) for p in passages]


def run_use(
    lm: LanguageModel,
    passages: Sequence[Text],
    cfg: CramConfig,
    workdir: epath.Path,
    kinds: Sequence[str],
    *,
    before: Sequence[int],
    num_tokens: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Crammed, list[Record]]:
    """Crams a part of every passage and runs the studies of its memory.

    Args:
      lm: the frozen language model.
      passages: passages with distinct ids, all of one length: max(`before`) tokens, the
        text, and its true continuation.
      cfg: how the texts are crammed.
      workdir: folder claimed by this config; results of an earlier start are kept.
      kinds: names of the studies: "attention", "knockout", "use" or "context".
      before: numbers of real tokens before the text that replace memory in "context".
      num_tokens: number of tokens of the text.
      report: called after each chunk of cramming.

    Returns:
      The texts with their memory, and the records of all studies.
    """
    texts = crammed_part(passages, before, num_tokens)
    records = run_cramming(lm, texts, cfg, workdir, report)
    crammed = read_crammed(lm, workdir, records, passages, max(before, default=0))
    studies = {
        "attention": attention_study,
        "knockout": knockout_study,
        "use": use_study,
        "context": functools.partial(context_study, before=before),
    }
    wanted = {kind: functools.partial(studies[kind], lm, crammed) for kind in kinds}
    return crammed, run_studies(workdir / FILE, wanted)
