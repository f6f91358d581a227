"""A bucket in memory behind gs:// paths, which forgives no more than a real one."""

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """No folders but those that have files, and nothing is added to a file."""

    protocol = ("gs", "gcs")
    store: dict = {}
    pseudo_dirs = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def _open(self, path, mode="rb", **kwargs):
        if "a" in mode:
            raise NotImplementedError("objects are written whole")
        return super()._open(path, mode, **kwargs)
