"""pytorch_model.bin: the same weights as in safetensors, and nothing is ever run."""

import collections
import io
import json
import os
import pathlib
import pickle
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile

import jax
import numpy as np
import pytest
from damaged import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memcomp.convert.files import Checkpoint
from memcomp.errors import InputError
from memcomp.lm.load import load_lm

pytestmark = pytest.mark.parity
GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"


def load_torch(path):
    import safetensors.torch

    return safetensors.torch.load_file(path)


def save_torch(tensors, path, **options):
    import torch

    torch.save(tensors, path, **options)


@pytest.fixture()
def folder(tmp_path):
    """A checkpoint with pickled weights alone."""
    folder = pathlib.Path(shutil.copytree(GOLDEN / "llama", tmp_path / "llama"))
    save_torch(load_torch(folder / WEIGHTS), folder / PICKLED)
    (folder / WEIGHTS).unlink()
    return folder


def refusal(folder):
    with pytest.raises(InputError) as error:
        load_lm(str(folder))
    message = str(error.value)
    assert message and "\n" not in message
    return message


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    return first.fingerprint == second.fingerprint and first.config == second.config


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("case", ["llama", "gpt_neox_bfloat16"])
def test_weights_and_fingerprint_are_those_of_safetensors(case, zipped, tmp_path):
    shutil.copy(GOLDEN / case / "config.json", tmp_path)
    tensors = load_torch(GOLDEN / case / WEIGHTS)
    save_torch(tensors, tmp_path / PICKLED, _use_new_zipfile_serialization=zipped)
    want = load_lm(str(GOLDEN / case), dtype="bfloat16")
    assert equal(load_lm(str(tmp_path), dtype="bfloat16"), want)


def test_shards_are_read_by_their_index(folder):
    want = load_lm(str(GOLDEN / "llama"))
    tensors = load_torch(GOLDEN / "llama" / WEIGHTS)
    (folder / PICKLED).unlink()
    shard_of = {name: f"pytorch_model-{i % 3}.bin" for i, name in enumerate(tensors)}
    for shard in set(shard_of.values()):
        held = {name: t for name, t in tensors.items() if shard_of[name] == shard}
        save_torch(held, folder / shard)
    index = folder / f"{PICKLED}.index.json"
    index.write_text(json.dumps({"weight_map": shard_of}))
    assert equal(load_lm(str(folder)), want)


def test_strides_and_shared_storage_are_read_as_they_stand(folder):
    tensors = load_torch(GOLDEN / "llama" / WEIGHTS)
    tensors = {name: t.t().contiguous().t() for name, t in tensors.items()}
    save_torch(tensors, folder / PICKLED)
    assert equal(load_lm(str(folder)), load_lm(str(GOLDEN / "llama")))


def test_the_command_that_converts_does(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        message = refusal(folder)
    command = shlex.split(message.partition(" run ")[2])
    command[0] = sys.executable
    subprocess.run(command, check=True, capture_output=True)
    assert equal(load_lm(str(folder)), load_lm(str(GOLDEN / "llama")))


class Touch:
    """Unpickled by pickle, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_zip(path, data, compression=zipfile.ZIP_STORED):
    """A file of `torch.save` with a pickle of our own."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", bytes(64))


@pytest.mark.parametrize("form", ["pickle", "torch.save", "torch.save, old", "zip", "tar"])
def test_code_in_a_pickle_is_not_run(form, folder, tmp_path):
    touched, path = tmp_path / "touched", folder / PICKLED
    evil = {"model.norm.weight": Touch(touched)}
    data = pickle.dumps(evil, 2)
    if form == "pickle":
        path.write_bytes(data)
    elif form == "zip":
        write_zip(path, data)
    elif form == "tar":
        with tarfile.open(path, "w") as file:
            for name in "sys_info", "pickle", "storages", "tensors":
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    else:
        save_torch(evil, path, _use_new_zipfile_serialization=form == "torch.save")
    assert f"{path} is damaged or holds more than weights" in refusal(folder)
    assert not touched.exists()


def test_the_attack_works_where_nothing_guards_against_it(tmp_path):
    pickle.loads(pickle.dumps({"a": Touch(tmp_path / "touched")}, 2))
    assert (tmp_path / "touched").exists()


def absurd():
    import torch

    one = torch.zeros(1)
    whole = load_torch(GOLDEN / "llama" / WEIGHTS)
    return {
        "one number for all": {**whole, "lm_head.weight": one.expand(2**31, 2**20)},
        "one storage for all": {str(i): one.expand(10**4) for i in range(10**3)},
        "a list": [one],
        "a number": {**whole, "lm_head.weight": 3},
        "a key that is no name": {**whole, 3: one},
        "a dict within": {"state_dict": whole},
        "sparse": {**whole, "lm_head.weight": torch.eye(3).to_sparse()},
        "no memory": {**whole, "lm_head.weight": one.to("meta")},
        "integers": {**whole, "lm_head.weight": torch.zeros(31, 24, dtype=torch.int8)},
        "another class": collections.Counter(whole.keys()),
    }


@pytest.mark.parametrize(
    "case",
    [
        "one number for all",
        "one storage for all",
        "a list",
        "a number",
        "a key that is no name",
        "a dict within",
        "sparse",
        "no memory",
        "integers",
        "another class",
    ],
)
def test_what_is_no_flat_dict_of_tensors_is_refused(case, folder):
    save_torch(absurd()[case], folder / PICKLED)
    assert str(folder / PICKLED) in refusal(folder)


def test_a_zip_that_would_unfold_is_refused(folder):
    write_zip(folder / PICKLED, bytes(10**7), zipfile.ZIP_DEFLATED)
    assert "is damaged" in refusal(folder)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file(zipped, data, tmp_path_factory):
    """As torch checks no sums, a bit of a weight may differ, but nothing else may."""
    folder = tmp_path_factory.getbasetemp() / f"damaged-{zipped}"
    folder.mkdir(exist_ok=True)
    good = GOOD.setdefault(zipped, whole(folder / PICKLED, zipped))
    (folder / PICKLED).write_bytes(data.draw(damaged(good)))
    try:
        checkpoint = Checkpoint(folder)
        for name, shape in checkpoint.shapes().items():
            assert checkpoint.read(name).shape == shape
    except InputError as error:
        assert str(error) and "\n" not in str(error)


GOOD = {}


def whole(path, zipped):
    import torch

    tensors = {"a": torch.ones(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()
