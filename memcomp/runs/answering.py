"""Stage generate: the LM answers from the vectors of compressed texts; writes the files."""

import json
from typing import Any, NamedTuple

import jax
from etils import epath

from memcomp.compressors.chunks import split
from memcomp.compressors.compress import TrainedCompressor, compress, own_tokens
from memcomp.compressors.files import save_soft_prompts
from memcomp.compressors.generate import asked_rows, check_rows, generate
from memcomp.compressors.setup import Setup, check_chunks, load_start, template
from memcomp.data.texts import read_texts
from memcomp.data.tokens import num_faithful
from memcomp.data.training_texts import PYTHON, whole_texts
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.runs.files import RECORDS, Record, write_whole


class Asked(NamedTuple):
    """Texts to compress, each with the name of its source, and the compressor."""

    found: list[tuple[str, Any]]
    trained: TrainedCompressor


def load_asked(setup: Setup) -> Asked:
    """Loads the texts and the compressor of stage generate.

    Raises:
      InputError: there are no texts or no compressor, or the texts with the question and
        the answer do not fit the LM.
    """
    settings, lm = setup.settings, setup.lm
    decode, sources = settings.decode, settings.sources
    if decode.num_texts < 1:
        raise InputError(f"decode.num_texts is {decode.num_texts}; give 1 or more")
    if decode.ask not in ("reproduce", "continue"):
        template(setup)
    trained = load_start(setup)
    if sources.texts in PYTHON:
        texts = whole_texts(sources.texts)[: decode.num_texts]
        found = [(sources.texts, text) for text in texts]
    else:
        found = read_texts(sources.texts, field=sources.field, num_texts=decode.num_texts)
    max_chunk = settings.context.max_chunk
    chunks = [split(own_tokens(lm, str(text)), max_chunk) for _, text in found]
    check_chunks(max(len(chunk) for text in chunks for chunk in text), setup)
    counts = [len(text) * trained.compressor.num_digests for text in chunks]
    rows = asked_rows(lm, counts, decode.ask, settings.question.template)
    check_rows(lm, rows, decode.num_tokens)
    return Asked(found, trained)


def answer(setup: Setup, asked: Asked, folder: epath.Path) -> list[Record]:
    """Writes soft_prompts.safetensors and results.jsonl.

    All processes must call it; the first one writes.

    Returns:
      The records of results.jsonl; `output` is the LM's answer.
    """
    settings, lm, (found, trained) = setup.settings, setup.lm, asked
    decode, max_chunk = settings.decode, settings.context.max_chunk
    prompts = compress(lm, trained, [text for _, text in found], max_chunk=max_chunk)
    save_soft_prompts(folder / "soft_prompts.safetensors", prompts)
    answers = generate(
        lm,
        prompts,
        decode.ask,
        num_tokens=decode.num_tokens,
        template=settings.question.template,
        temperature=decode.temperature,
        top_p=decode.top_p,
        key=jax.random.key(settings.seed),
    )
    records = []
    for i, ((source, text), output) in enumerate(zip(found, answers, strict=True)):
        ids = own_tokens(lm, text)
        faithful = num_faithful(lm.tokenizer, ids, text, whole=True)
        record = {"text_id": i, "source": source, "num_vectors": int(prompts.counts[i])}
        record |= {"ask": decode.ask, "output": output}
        records.append(record | {"text_comes_back": faithful == len(ids)})
    if is_first():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_whole(folder / RECORDS, lines)
    return records
