"""Data sets of TensorFlow Datasets: array_record files, read without TensorFlow.

They are texts to compress that take long to make, and training corpora of compressors.
`import tensorflow_datasets` takes a second, so that this module is imported only where a
data set is needed, and not by `import memcomp`.
"""

import array
import collections
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter
from tqdm import tqdm

from memcomp.data.documents import find_documents, read_documents
from memcomp.data.files import content_sha256
from memcomp.data.pwc import PUBLISHED, Question, find_pwc, read_pwc
from memcomp.data.sources import Files, Found, Options, find_source
from memcomp.errors import InputError

SPLIT = "rows"


class Corpus(NamedTuple):
    """Data set that has been made.

    Attributes:
      rows: random-access data source of examples for grain; strings are bytes in UTF-8.
      counts: number of examples that were "read", "kept", and left out, by reason.
    """

    rows: Sequence[Mapping[str, bytes]]
    counts: Mapping[str, int]

    def texts(self, *fields: str) -> Iterator[tuple[str, ...]]:
        """Yields these fields of the examples in order, for `ragged.tokenized`."""
        for row in self.rows:
            yield tuple(row[field].decode() for field in fields)


@dataclasses.dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
    """Config of one corpus.

    Attributes:
      read: function that yields the examples, and updates the counter that it is given; see
        `Corpus`.
    """

    read: Callable[[collections.Counter[str]], Iterable[tuple[str, ...]]]


class _Rows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of a data set whose examples are text fields, in the order of reading."""

    VERSION = tfds.core.Version("1.0.0")  # changes if the same files give other examples
    FIELDS: tuple[str, ...]
    # Without a path, TFDS looks for no list of downloads. TFDS 4.9.10 would look for it
    # with importlib_resources, a package that it does not depend on.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in self.FIELDS}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        assert isinstance(self.builder_config, CorpusConfig)
        counts: collections.Counter[str] = collections.Counter()
        for i, row in enumerate(self.builder_config.read(counts)):
            yield i, dict(zip(self.FIELDS, row, strict=True))
        info: Any = self.info
        info.metadata.update(counts)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list:
        """Writes the examples to one file, each as soon as it is read.

        The writer of TFDS 4.9.10 keeps examples in memory to sort them, and from 1 GB on
        needs TensorFlow for that.
        """
        features: Any = self.info.features
        serializer = ExampleSerializer(features.get_serialized_info())
        template = self._get_filename_template(split_name=SPLIT)
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        sizes = array.array("q")

        def records() -> Iterator[tuple[int, bytes]]:
            for key, row in tqdm(self._generate_examples(), unit=" rows", disable=None):
                record = serializer.serialize_example(features.encode_example(row))
                sizes.append(len(record))
                yield key, record

        ArrayRecordFileAdapter.write_examples(path, records())
        return [
            tfds.core.SplitInfo(
                name=SPLIT,
                shard_lengths=[len(sizes)],
                num_bytes=sum(sizes),
                filename_template=template,
            )
        ]


class MemcompTexts(_Rows):
    """Data set of texts to compress with the fields of `Found`."""

    FIELDS = Found._fields


class MemcompDocuments(_Rows):
    """Data set of documents with the field `text`."""

    FIELDS = ("text",)


class MemcompPwc(_Rows):
    """Data set of questions with the fields `context`, `prompt` and `answer`."""

    FIELDS = Question._fields


def read_stored(name: str, options: Options) -> Iterator[Found]:
    """Reads the texts of a source from its data set; makes the data set if needed.

    Args:
      name: a key of `memcomp.data.sources.SOURCES`.
      options: all options of `read_texts`.

    Raises:
      InputError: files are missing or wrong, or TFDS_DATA_DIR cannot be written.
    """
    source = find_source(name)
    chosen = {name: options[name] for name in source.options}

    def read(counts: collections.Counter[str]) -> Iterator[tuple[Any, ...]]:
        for found in source.found(options):
            counts["kept"] += 1
            yield found

    key = f"{name}-{_content_key(source.files(options), chosen)}"
    corpus = _prepare(MemcompTexts, key, read, name)
    return itertools.starmap(Found, corpus.texts(*Found._fields))


def prepare_documents(source: str, *, field: str = "text") -> Corpus:
    """Returns the documents of JSON lines without exact duplicates; makes it if needed.

    Args:
      source: a .jsonl file, or a folder of them.
      field: field of each object that has the text.

    Raises:
      InputError: files are missing or wrong, have no documents, or TFDS_DATA_DIR cannot
        be written.
    """
    files = find_documents(source)
    return _prepare(
        MemcompDocuments,
        _content_key(files, {"field": field}),
        lambda counts: ((text,) for text in read_documents(files, field, counts)),
        source,
    )


def prepare_pwc(
    split: str,
    *,
    manual_dir: str | None,
    filters: Sequence[str] | None = None,
) -> Corpus:
    """Returns questions of Prompt-with-Context; makes the data set if it does not exist.

    Args:
      split: "train" or "test".
      manual_dir: folder of PwC_train.jsonl and PwC_test.jsonl.
      filters: keys of `memcomp.data.pwc.FILTERS`; None for the published ones, which are
        "cjk" for "train", and "cjk" and "general" for "test".

    Raises:
      InputError: files are missing or wrong, a filter is unknown, or no question passes.
    """
    path = find_pwc(split, manual_dir)
    chosen = list(PUBLISHED[split] if filters is None else filters)
    return _prepare(
        MemcompPwc,
        f"{split}-{_content_key([path], {'filters': chosen})}",
        lambda counts: read_pwc(path, chosen, counts),
        str(path),
    )


def _prepare(
    builder_class: type[_Rows],
    name: str,
    read: Callable[[collections.Counter[str]], Iterable[tuple[str, ...]]],
    source: str,
) -> Corpus:
    builder = _made(builder_class, CorpusConfig(name=name, read=read))
    counts = {reason: int(number) for reason, number in builder.info.metadata.items()}
    if not counts.get("kept"):
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
        raise InputError(f"{source} has nothing to keep ({left_out or 'no rows'})")
    return Corpus(builder.as_data_source(SPLIT), counts)


def _made(builder_class: type[_Rows], config: CorpusConfig) -> Any:
    """Returns the builder of a data set; makes the data set if it does not exist.

    The name of `config` is a hash of all options and of the content of all files, so that
    none is stale.
    """
    folder = os.environ.get("TFDS_DATA_DIR")
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


def _content_key(files: Files, chosen: Options) -> str:
    """First digits of `content_sha256`, which identify a data set."""
    return content_sha256(files, chosen)[:16]
