"""`cram`: crams texts in one call and keeps all results in host memory."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from memcomp.cram.config import CramConfig
from memcomp.cram.group import check_alone
from memcomp.cram.result import CramResult
from memcomp.cram.schedule import advance_all
from memcomp.cram.state import states_from
from memcomp.data.texts import tokenize
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel


def cram(
    lm: LanguageModel,
    texts: Sequence[str | np.ndarray],
    cfg: CramConfig = CramConfig(),  # noqa: B008  frozen
    report: Callable[[], object] = lambda: None,
    starts: Sequence[Float[np.ndarray, "_ _"]] | None = None,
) -> list[CramResult]:
    """Crams every text and returns the results in the order of the texts.

    Runs that are stored on disk and can be resumed are in `memcomp.runs.cramming`.

    Args:
      lm: the frozen language model.
      texts: strings, or arrays of token ids.
      cfg: what to cram and how.
      report: called after each chunk of steps.
      starts: initial memory [M D] of each text; None for the recipe's.

    Raises:
      InputError: a text is empty, shorter than `cfg.num_tokens`, or too long for the LM; or
        the starts are not one for each text, of the config's number of vectors.

    Source: Kuratov et al. 2025, arXiv:2502.13063.
    """
    found = tokenize(
        lm.tokenizer,
        texts,
        num_tokens=cfg.num_tokens,
        protocol=cfg.protocol,
        vocab_size=lm.config.vocab_size,
    )
    states = {}
    if starts is not None:
        check_alone(cfg, "a start")
        if len(starts) != len(found):
            raise InputError(
                f"there are {len(starts)} starts for {len(found)} texts; give one for each"
            )
        ids = [text.seed_id for text in found]
        states = dict(zip(ids, states_from(lm, starts, cfg), strict=True))
    results = {}
    for finished, _ in advance_all(lm, found, cfg, starts=states):
        results |= {result.seed_id: result for result in finished}
        report()
    return [results[text.seed_id] for text in found]
