"""Compression ratios of classical compressors: bits of the text divided by bits of code.

Source: Table 4 of Kuratov et al. 2025, arXiv:2502.13063, appendix F.
"""

import bz2
import collections
import functools
import hashlib
import importlib
import json
import lzma
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.metrics import entropy_coding
from memcomp.metrics.huffman import HuffmanCode
from memcomp.runs.files import (
    RECORDS,
    SUMMARY,
    Record,
    append_records,
    read_records,
    summarise,
    write_whole,
)

ZSTD_MODULES = ("compression.zstd", "zstandard")  # Python 3.14's own, or the package
GROUP = 4 * entropy_coding.ROWS  # number of texts between two writes


class Encoded(NamedTuple):
    """A text as bytes, and record fields that only one method has."""

    data: bytes
    figures: Mapping[str, Any] = {}


class Codec(NamedTuple):
    """Functions that encode several texts, and decode them again."""

    encode: Callable[[Sequence[str]], list[Encoded]]
    decode: Callable[[Sequence[bytes]], list[str]]


def _bytewise(
    compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes]
) -> Codec:
    """Makes a codec that compresses the UTF-8 bytes of each text separately."""
    return Codec(
        lambda texts: [Encoded(compress(text.encode())) for text in texts],
        lambda streams: [decompress(stream).decode() for stream in streams],
    )


def _zstd() -> Codec:
    for name in ZSTD_MODULES:
        try:
            zstd = importlib.import_module(name)
        except ImportError:
            continue
        compress = functools.partial(zstd.compress, level=19)
        return _bytewise(compress, zstd.decompress)
    raise InputError(
        "zstd needs Python 3.14 or the package zstandard; pip install 'memcomp[lab]', or "
        "leave it out of methods"
    )


def _huffman(corpus: Sequence[str]) -> Codec:
    """Huffman code of characters; the table, which all texts share, is not counted."""
    code = HuffmanCode.from_counts(collections.Counter("".join(corpus)))
    figures = {"table_bits": code.table_bits()}
    return Codec(
        lambda texts: [Encoded(code.encode(text), figures) for text in texts],
        lambda streams: [code.decode(stream) for stream in streams],
    )


def _arithmetic(lm: LanguageModel) -> Codec:
    entropy_coding.range_coder()  # raises if the package is missing, before any work

    def encode(texts):
        return [
            Encoded(coded.data, {k: v for k, v in coded._asdict().items() if k != "data"})
            for coded in entropy_coding.encode_texts(lm, texts)
        ]

    return Codec(encode, lambda streams: entropy_coding.decode_texts(lm, streams))


# Method -> its codec, from a corpus and an LM, which few need. Each uses its best level.
METHODS: dict[str, Callable[[Sequence[str], LanguageModel], Codec]] = {
    "zlib": lambda corpus, lm: _bytewise(lambda b: zlib.compress(b, 9), zlib.decompress),
    "bz2": lambda corpus, lm: _bytewise(bz2.compress, bz2.decompress),
    "lzma": lambda corpus, lm: _bytewise(
        lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME), lzma.decompress
    ),
    "zstd": lambda corpus, lm: _zstd(),
    "huffman": lambda corpus, lm: _huffman(corpus),
    "arithmetic": lambda corpus, lm: _arithmetic(lm),
}


def there() -> list[str]:
    """Names of the methods whose packages are installed."""
    needs = {"zstd": _zstd, "arithmetic": entropy_coding.range_coder}
    return [name for name in METHODS if name not in needs or _works(needs[name])]


def _works(package: Callable[[], Any]) -> bool:
    try:
        package()
    except InputError:
        return False
    return True


def first_words(text: str, num_words: int, name: str) -> str:
    """Returns the first words of a text, joined by spaces.

    Words are separated by whitespace. (The published texts are cut by the tokenizer of
    nltk, which makes punctuation marks words too, and so adds spaces.)

    Raises:
      InputError: the text has fewer words.
    """
    words = text.split()
    if not 1 <= num_words <= len(words):
        raise InputError(
            f"{name} has {len(words)} words; num_words is {num_words}: lower it, give a "
            "longer text, or leave num_words out"
        )
    return " ".join(words[:num_words])


def make_codecs(
    methods: Sequence[str], texts: Sequence[tuple[str, str]], lm: LanguageModel
) -> dict[str, Codec]:
    """Makes the codecs of `methods`, in their order.

    Args:
      methods: keys of `METHODS`; empty for all methods whose packages are installed.
      texts: the corpus, as for `run_compression`.
      lm: language model for arithmetic coding.

    Raises:
      InputError: a method is unknown, or its package is not installed.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"no method {unknown[0]!r}; known are {', '.join(METHODS)}")
    corpus = [text for _, text in texts]
    return {name: METHODS[name](corpus, lm) for name in methods or there()}


def run_compression(
    texts: Sequence[tuple[str, str]],
    codecs: Mapping[str, Codec],
    workdir: epath.Path,
    report: Callable[[str, int], None] = lambda method, done: None,
) -> list[Record]:
    """Compresses and decompresses all texts with all methods; writes files of `workdir`.

    A ratio is bits of the text's UTF-8 divided by bits of the compressed text with all
    headers. `exact` says whether decompression gives the text.

    Args:
      texts: pairs of a source's name and a text; the index is the text's id.
      codecs: codecs by the method's name, as from `make_codecs`.
      workdir: folder claimed by this config; records of an earlier start are kept.
      report: called after each group of texts with the method and the number of texts done.

    Returns:
      The records, ordered by method and text.
    """
    records = {(r["method"], r["text_id"]): r for r in read_records(workdir / RECORDS)}
    for method, codec in codecs.items():
        # Groups never change, so that a text has the same row and the same bytes.
        for first in range(0, len(texts), GROUP):
            ids = range(first, min(first + GROUP, len(texts)))
            if any((method, i) not in records for i in ids):
                group = _compress(method, codec, {i: texts[i] for i in ids})
                new = [r for r in group if (method, r["text_id"]) not in records]
                append_records(workdir / RECORDS, new)
                records |= {(method, r["text_id"]): r for r in new}
            report(method, ids.stop)
    ordered = [records[method, i] for method in codecs for i in range(len(texts))]
    summary = {
        method: summarise([r for r in ordered if r["method"] == method])
        for method in codecs
    }
    write_whole(workdir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return ordered


def _compress(
    method: str, codec: Codec, texts: Mapping[int, tuple[str, str]]
) -> list[Record]:
    start = time.perf_counter()
    encoded = codec.encode([text for _, text in texts.values()])
    decoded = codec.decode([one.data for one in encoded])
    seconds = (time.perf_counter() - start) / len(texts)
    records = []
    for (i, (source, text)), one, back in zip(texts.items(), encoded, decoded, strict=True):
        num_bytes, bits = len(text.encode()), 8 * len(one.data)
        record = {
            "kind": "compression",
            "method": method,
            "text_id": i,
            "source": source,
            "text_bytes": num_bytes,
            "compressed_bits": bits,
            "ratio": 8 * num_bytes / bits,
            "exact": back == text,
            "utf8_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "seconds": seconds,
        }
        records.append(record | dict(one.figures))
    return records
