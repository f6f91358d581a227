"""Overlap of two texts: BLEU-4 and ROUGE, by the packages that papers commonly use.

The packages are in the extra `compress` and are imported on use. Scores are from 0 to 1.

Letters: R pairs of an output and its reference.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from memcomp.errors import InputError

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


class Rouge(NamedTuple):
    """ROUGE of each pair.

    Attributes:
      precision: share of the output that is in the reference.
      recall: share of the reference that is in the output.
      f1: their harmonic mean; 0 if nothing is shared.
    """

    precision: Float[np.ndarray, " R"]
    recall: Float[np.ndarray, " R"]
    f1: Float[np.ndarray, " R"]


def corpus_bleu(
    outputs: Sequence[str], references: Sequence[str], *, words: str = "13a"
) -> float:
    """BLEU-4 of all outputs together, with n-gram counts summed over them.

    Args:
      outputs: an output for each reference, which may be an empty string.
      references: a reference for each output.
      words: tokenizer of sacrebleu, which defines words: "13a" splits off punctuation;
        "none" splits only at spaces, as for `words_of_ids`.

    Raises:
      InputError: there are no pairs, the numbers differ, or sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771. Neither ICAE nor IC-Former
    says which BLEU it reports.
    """
    _check_pairs(outputs, references)
    metric = _bleu(words)
    return metric.corpus_score(list(outputs), [list(references)]).score / 100


def text_bleu(
    outputs: Sequence[str], references: Sequence[str], *, words: str = "13a"
) -> Float[np.ndarray, " R"]:
    """BLEU-4 of each output separately, for means with standard errors.

    Texts of fewer than 4 words are scored by the n-grams that they have, and counts of zero
    are smoothed (sacrebleu's "exp"). So the mean differs from `corpus_bleu`.

    Arguments and errors are those of `corpus_bleu`.
    """
    _check_pairs(outputs, references)
    metric = _bleu(words, effective_order=True)
    pairs = zip(outputs, references, strict=True)
    return np.array([metric.sentence_score(a, [b]).score / 100 for a, b in pairs])


def bleu_signatures() -> dict[str, str]:
    """Signatures of sacrebleu, with its version and settings, to report with scores."""
    found = {}
    for name, whole in (("text_bleu", False), ("corpus_bleu", True)):
        metric = _bleu("13a", effective_order=not whole)
        metric.corpus_score(["a"], [["a"]])  # sets the number of references
        found[name] = metric.get_signature().format()
    return found


def words_of_ids(tokens: Sequence[int]) -> str:
    """Writes token ids as words, for BLEU of tokens when there is no text."""
    return " ".join(map(str, tokens))


def rouge(outputs: Sequence[str], references: Sequence[str]) -> dict[str, Rouge]:
    """ROUGE of each pair: single words, pairs of words, longest common subsequence.

    Words are runs of the letters a to z and digits, in lower case. So a text in another
    script has no words, and scores 0. Words are not stemmed.

    Args:
      outputs: an output for each reference, which may be an empty string.
      references: a reference for each output.

    Returns:
      Scores by the names in `ROUGE`.

    Raises:
      InputError: there are no pairs, the numbers differ, or rouge-score is not installed.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries. IC-Former
    says neither which package it used nor whether it stems.
    """
    _check_pairs(outputs, references)
    module = _package("rouge_score.rouge_scorer", "ROUGE", "rouge-score")
    scorer = module.RougeScorer(list(ROUGE.values()))
    pairs = zip(outputs, references, strict=True)
    scores = [scorer.score(target=b, prediction=a) for a, b in pairs]
    return {
        ours: Rouge(*np.array([score[theirs] for score in scores], float).T)
        for ours, theirs in ROUGE.items()
    }


def _bleu(words: str, **options: Any) -> Any:
    module = _package("sacrebleu.metrics", "BLEU", "sacrebleu")
    # force: do not warn of outputs that look as if they were tokenized already.
    return module.BLEU(tokenize=words, force=True, **options)


def _package(module: str, measure: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{measure} needs the package {package}; pip install 'memcomp[compress]'"
        ) from error


def _check_pairs(outputs: Sequence[str], references: Sequence[str]) -> None:
    if len(outputs) != len(references) or not outputs:
        raise InputError(
            f"there are {len(outputs)} outputs for {len(references)} references; give "
            "one output for each, and at least one"
        )
