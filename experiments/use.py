"""Crams passages of texts, and studies how the LM uses their memory and in which layers.

  python experiments/use.py [--config configs/use.py] [--config.x.y=value] [--workdir DIR]

It writes a cramming run and use.jsonl, with four studies: attention on memory by layer;
accuracy with memory hidden from layers; loss of the true continuation given memory, text or
nothing; and loss of the text given other contexts than memory. It can be stopped at any
moment, and the same command resumes it.
"""

from launch import Config, launch, note, say_notes, stop_if_told

import memcomp
from memcomp.cram.schedule import check_fits
from memcomp.data.texts import ALL, Text, tokenize
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.cramming import describe
from memcomp.runs.files import Record, claim_workdir
from memcomp.runs.inputs import load_model, load_texts
from memcomp.runs.progress import bar_of, of_cramming
from memcomp.studies.attention import check_attends
from memcomp.studies.passages import crammed_part, run_use
from memcomp.studies.use import check_use, means

DEFAULT_WORKDIR = "runs/use"
ATTENDING = ("attention", "knockout")
STUDIES = (*ATTENDING, "use", "context")


def main(config: Config, workdir: str | None) -> None:
    """Crams the passages, runs the studies and prints their tables."""
    lm = load_model(config.to_dict())
    T = one_length(config)
    cfg = memcomp.CramConfig(seed=config.seed, **config.cram)
    kinds = chosen(lm, config.studies, T)
    check_use(
        lm,
        cfg,
        num_texts=2 if config.num_texts in (None, ALL) else config.num_texts,
        num_tokens=T,
        before=config.before,
        num_after=config.after,
    )
    passages = read_passages(lm, config, max(config.before, default=0) + T + config.after)
    texts = crammed_part(passages, config.before, T)
    check_fits(lm, texts, cfg)  # raises before anything is written
    folder = claim_workdir(
        workdir or DEFAULT_WORKDIR,
        config.to_dict(),
        describe(lm, passages[0].source_sha256),
    )
    say_notes()
    with bar_of(len(texts), of_cramming, stop_if_told) as report:
        crammed, found = run_use(
            lm,
            passages,
            cfg,
            folder,
            kinds,
            before=config.before,
            num_tokens=T,
            report=report,
        )
    print(f"{int(crammed.exact.sum())} of {len(texts)} texts come back exactly\n")
    print("\n\n".join(table(kind, found) for kind in kinds))
    print(f"\nrun: {folder}")


def one_length(config: Config) -> int:
    """Returns the number of tokens of every text."""
    lengths = config.cram.num_tokens
    if len(lengths) != 1 or not isinstance(lengths[0], int):
        raise InputError(f"cram.num_tokens is {lengths}; give one length for all texts")
    return lengths[0]


def chosen(lm: LanguageModel, studies: tuple[str, ...], num_tokens: int) -> list[str]:
    """Returns the chosen studies; all that this LM allows if none is named."""
    if unknown := set(studies) - set(STUDIES):
        raise InputError(f"studies has {sorted(unknown)}; known are {', '.join(STUDIES)}")
    if studies and not set(studies) & set(ATTENDING):
        return [kind for kind in STUDIES if kind in studies]
    try:
        check_attends(lm, num_tokens)
    except InputError:
        if studies:
            raise
        return [kind for kind in STUDIES if kind not in ATTENDING]
    return [kind for kind in STUDIES if kind in (studies or STUDIES)]


def read_passages(lm: LanguageModel, config: Config, num_tokens: int) -> list[Text]:
    """Reads texts with the tokens before and after them."""
    found, sha256 = load_texts(config.to_dict(), lm, note)
    return tokenize(
        lm.tokenizer,
        found,
        num_tokens=num_tokens,
        vocab_size=lm.config.vocab_size,
        source_sha256=sha256,
    )


def table(kind: str, records: list[Record]) -> str:
    """Returns a table with means and standard errors over texts, by condition."""
    title, fields, name = TABLES[kind]
    columns = [means(kind, records, field) for field in fields]
    if not columns[0]:
        return f"{title}: no text comes back exactly; cram fewer tokens"
    lines = [f"{title} (n = {next(iter(columns[0].values())).n}):"]
    for key in columns[0]:
        cells = [
            f"{e[key].mean:7.3f} ± {e[key].standard_error or 0:.3f} {unit}"
            for unit, e in zip(fields.values(), columns, strict=True)
        ]
        lines.append("  ".join(["", name(*key).ljust(26), *cells]))
    return "\n".join(lines)


def layers(condition: str, first: int | None, last: int | None) -> str:
    """Returns a range of layers in words."""
    if first is None or last is None:
        return f"no memory, {condition}"
    return "none" if first == last else f"layers {first} to {last - 1}"


LOSS = {"loss_nats": "nats", "loss_bits": "bits", "accuracy": "right"}
# Kind -> title; unit by field of the records; function that names a line.
TABLES = {
    "attention": (
        "Attention to memory, or to the start token in its place",
        {"mass": "of 1", "uniform": "if uniform"},
        lambda condition, layer: f"{condition}, layer {layer}",
    ),
    "knockout": ("Tokens after the first, with memory hidden from", LOSS, layers),
    "use": ("A token of the true continuation, given", LOSS, str),
    "context": (
        "A token of the text, given",
        LOSS,
        lambda condition, vectors: f"{condition}, {vectors} before it",
    ),
}


if __name__ == "__main__":
    launch(main, "use.py")
