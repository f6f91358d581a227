"""Texts as a data set of TensorFlow Datasets: array_record files, read without TensorFlow.

`import tensorflow_datasets` takes a second, so that this module is imported only where a
data set is needed, and not by `import memcomp`.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from memcomp.data.files import content_sha256
from memcomp.data.sources import SOURCES, Files, Found, Options, Source, find_source
from memcomp.errors import InputError

SPLIT = "test"


@dataclasses.dataclass(eq=False, kw_only=True)
class TextsConfig(tfds.core.BuilderConfig):
    """Config of the texts of one source.

    Attributes:
      source: source of the texts.
      arguments: all options of `read_texts`.
      num_texts: number of texts; None for all.
    """

    source: Source
    arguments: Options
    num_texts: int | None

    def found(self) -> Iterator[Found]:
        """Reads the texts in order."""
        return itertools.islice(self.source.found(self.arguments), self.num_texts)


class MemcompTexts(tfds.core.GeneratorBasedBuilder):
    """Data set of texts: `source`, `place`, `context`, and `text` or else `tokens`."""

    VERSION = tfds.core.Version("1.0.0")  # changes if the same files give other examples
    # Without a path, TFDS looks for no list of downloads. TFDS 4.9.10 would look for it
    # with importlib_resources, a package that it does not depend on.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        names = ("source", "place", "context", "text")
        features = {name: tfds.features.Text() for name in names}
        tokens = tfds.features.Tensor(shape=(None,), dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**features, "tokens": tokens}),
            disable_shuffling=True,  # text i is example i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        assert isinstance(self.builder_config, TextsConfig)
        for i, one in enumerate(self.builder_config.found()):
            example = one._asdict()
            ids = isinstance(one.text, np.ndarray)
            example |= {"text": ""} if ids else {}
            yield i, example | {"tokens": one.text if ids else np.zeros(0, np.int32)}


def prepare(
    name: str,
    options: Options,
    *,
    num_texts: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Sequence[dict[str, Any]]:
    """Returns the data set of a source; makes it if it does not exist.

    Its name is a hash of its options and of the content of its files, so that another seed
    or another file gives another data set, and none is stale.

    Args:
      name: a key of `SOURCES`, a folder or a file.
      options: all options of `read_texts`.
      num_texts: number of texts to make; None for all.
      data_dir: folder of data sets; None for that of the environment variable
        TFDS_DATA_DIR, or else ~/tensorflow_datasets.

    Returns:
      A random-access data source for grain; strings are bytes in UTF-8.

    Raises:
      InputError: files are missing or wrong, or `data_dir` cannot be written.
    """
    source = find_source(name)
    if name == "-":
        raise InputError("standard input is no data set; save it to a file first")
    if source.endless and num_texts is None:
        raise InputError(f'texts "{name}" have no end; say num_texts')
    chosen = {name: options[name] for name in source.options} | {"num_texts": num_texts}
    key = content_key(source.files(options), chosen)
    config = TextsConfig(
        name=f"{name if name in SOURCES else 'files'}-{key}",
        source=source,
        arguments=options,
        num_texts=num_texts,
    )
    return made(MemcompTexts, config, data_dir).as_data_source(SPLIT)


def made(
    builder_class: type[tfds.core.GeneratorBasedBuilder],
    config: tfds.core.BuilderConfig,
    data_dir: str | os.PathLike | None,
) -> Any:
    """Returns the builder of a data set; makes the data set if it does not exist.

    Args:
      builder_class: class of the builder.
      config: config whose name identifies the data set; see `content_key`.
      data_dir: folder of data sets, as for `prepare`.

    Raises:
      InputError: `data_dir` cannot be written, or making the data set raises it.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder: Any = functools.partial(  # Any: TFDS's decorators hide its types
        builder_class, config=config, data_dir=folder, file_format="array_record"
    )
    with _quiet():
        try:
            builder().download_and_prepare()
        except OSError as error:
            # Another process may have made it in the meantime.
            if not builder().is_prepared():
                raise InputError(
                    f"{builder().data_dir} cannot be written ({error}); set "
                    "TFDS_DATA_DIR to a folder that can"
                ) from error
        return builder()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences standard output, and the progress bar if there is no terminal."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns of configs that are not in its list
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def read_stored(name: str, options: Options) -> Iterator[Found]:
    """Reads the texts of a source from its data set."""
    for row in prepare(name, options):
        texts = (row[k].decode() for k in Found._fields)
        yield Found(*texts)


def content_key(files: Files, chosen: Options) -> str:
    """First digits of `content_sha256`, which identify a data set."""
    return content_sha256(files, chosen)[:16]
