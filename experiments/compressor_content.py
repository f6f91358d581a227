"""What the names in a config of experiments/icformer.py stand for, as SHA-256."""

import hashlib
from collections.abc import Callable

from compressor_parts import COMPRESSOR, FRESH
from launch import Config
from pretrain_lm import content_of

from memcomp.compressors.icformer.checkpoint_file import BESIDE
from memcomp.data.files import content_sha256
from memcomp.data.pwc import find_pwc
from memcomp.disk import find_files, local_path, path_of


def content(config: Config) -> dict[str, dict[str, str]]:
    """Entries of config.json: the texts, questions and compressors of a run."""
    stage = config.stage
    used = USED[config.evaluate.study if stage == "evaluate" else stage]
    found = {name: CONTENT[name](config) for name in used}
    return {name: {"sha256": digest} for name, digest in found.items() if digest}


def _texts(source: str, field: str) -> str | None:
    path = local_path(source)
    if source and path.is_dir() and (files := find_files(path, ".jsonl")):
        return content_sha256(files, {"field": field})
    return content_of(source, field).get("sha256")


def _questions(split: str) -> Callable[[Config], str]:
    def sha256(config: Config) -> str:
        return content_sha256([find_pwc(split, config.manual_dir or None)], {})

    return sha256


def _compressors(names: tuple[str, ...]) -> str | None:
    """Fingerprint of what `load_trained` reads; None for no name, or for fresh weights."""
    digest = hashlib.sha256()
    names = tuple(name for name in names if name not in ("", FRESH))
    for path in map(path_of, names):
        if not path.is_dir():
            files = [path]
        elif (path / BESIDE).exists():
            files = sorted(file for file in path.iterdir() if file.is_file())
        else:
            files = [path / COMPRESSOR]
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if names else None


CONTENT: dict[str, Callable[[Config], str | None]] = {
    "texts": lambda config: _texts(config.texts, config.field),
    "valid": lambda config: _texts(config.valid, config.field),
    "questions": _questions("train"),
    "test questions": _questions("test"),
    "start": lambda config: _compressors((config.start,)),
    "beside": lambda config: _compressors(tuple(config.evaluate.beside)),
}
# By stage, or by the study of stage evaluate.
USED = {
    "pretrain": ("texts", "valid", "start"),
    "finetune": ("questions", "start"),
    "generate": ("texts", "start"),
    "reconstruction": ("valid", "start", "beside"),
    "answers": ("test questions", "start", "beside"),
}
