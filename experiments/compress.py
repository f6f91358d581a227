"""Compresses texts by classical methods and with an LM; compares them with Table 4.

  python experiments/compress.py [--config configs/compress.py] [--config.x.y=value]
      [--workdir DIR]

It can be stopped at any moment, and the same command resumes it.
"""

import statistics
import sys

import tqdm
from launch import Config, launch, note, say_notes

import memcomp
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.metrics.classical import (
    first_words,
    make_codecs,
    run_compression,
)
from memcomp.report.published import SOURCES, published_ratios
from memcomp.runs.cramming import describe
from memcomp.runs.files import Record, claim_workdir
from memcomp.runs.inputs import load_texts

DEFAULT_WORKDIR = "runs/compress"


def main(config: Config, workdir: str | None) -> None:
    """Compresses the texts, writes the files of a run and prints the table."""
    lm = memcomp.load_lm(config.lm, dtype=config.dtype)
    texts, sha256 = _texts(config, lm)
    codecs = make_codecs(config.methods, texts, lm)  # raises before anything is written
    folder = claim_workdir(
        workdir or DEFAULT_WORKDIR, config.to_dict(), describe(lm, sha256)
    )
    say_notes()
    total = len(codecs) * len(texts)
    with tqdm.tqdm(total=total, unit="text", disable=not sys.stderr.isatty()) as bar:

        def report(method: str, done: int) -> None:
            bar.set_description(method)
            bar.n = list(codecs).index(method) * len(texts) + done
            bar.refresh()

        records = run_compression(texts, codecs, folder, report)
    print(table(records))
    print(f"run: {folder}")


def _texts(config: Config, lm: LanguageModel) -> tuple[list[tuple[str, str]], str]:
    """Returns pairs of a source's name and a text, and the SHA-256 of the source."""
    num_words = 1568 if config.num_words is None else config.num_words
    found, sha256 = load_texts(config.to_dict(), lm, note, num_words=num_words)
    texts = [(name, text) for name, text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise InputError(f"{config.texts} has token ids; compressors want text")
    if config.num_words is not None:
        texts = [
            (name, first_words(text, config.num_words, f"text {i} ({name})"))
            for i, (name, text) in enumerate(texts)
        ]
    return [(config.source or name, text) for name, text in texts], sha256


def table(records: list[Record]) -> str:
    """Returns a table with mean and standard deviation of the ratios of each method."""
    lines = [["bits of text / bits of code", "here", *SOURCES.values()]]
    for method in dict.fromkeys(r["method"] for r in records):
        ratios = [r["ratio"] for r in records if r["method"] == method]
        deviation = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
        here = f"{statistics.fmean(ratios):.2f}±{deviation:.2f}"
        known = published_ratios(method)
        cells = [known.get(source) for source in SOURCES]
        published = ["{:.2f}±{:.2f}".format(*cell) if cell else "" for cell in cells]
        lines.append([method, here, *published])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    return "\n".join([*rows, "", *_remarks(records)])


def _remarks(records: list[Record]) -> list[str]:
    num_texts = len({r["text_id"] for r in records})
    exact = sum(r["exact"] for r in records)
    said = [
        f"n = {num_texts} texts of {records[0]['text_bytes']} bytes and the like; "
        f"{exact} of {len(records)} came back exactly."
    ]
    if coded := [r for r in records if r["method"] == "arithmetic"]:
        bits = sum(r["compressed_bits"] for r in coded)
        entropy = sum(r["cross_entropy_bits"] for r in coded)
        said.append(
            f"arithmetic: {bits} bits where the LM's cross-entropy is {entropy:.0f}, "
            f"{100 * (bits / entropy - 1):+.2f} % or {(bits - entropy) / len(coded):.0f} "
            "bits a text: its head, and the last byte."
        )
    if tables := [r["table_bits"] for r in records if r["method"] == "huffman"]:
        said.append(f"huffman: its table of {tables[0]} bits for all is not counted.")
    said.append("Published: 1,568 words each, arithmetic with Pythia-160M.")
    return said


if __name__ == "__main__":
    launch(main, "compress.py")
