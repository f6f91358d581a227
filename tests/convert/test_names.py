"""Names of other savers, and heads that are not what config.json says of them."""

import json
import pathlib
import re

import numpy as np
import pytest
import safetensors.numpy
import transformers

from memcomp.convert.files import Checkpoint
from memcomp.convert.names import Renamed, renames_of, settle_head
from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES, load_lm

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
WEIGHTS = "model.safetensors"
# Golden cases by family; that of Gemma 3 with vision is made of its text part.
CASES = {name: name for name in FAMILIES if name.count("gemma3") == 0}
CASES |= {"gemma3_text": "gemma3", "gemma3": "gemma3"}


class Held(dict):
    def shapes(self):
        return {name: tensor.shape for name, tensor in self.items()}

    def read(self, name):
        return self[name]


def hf_names(family):
    return [name for row in family.table for name in row.names(2)]


def base_of(family):
    return family.table[0].hf.split(".")[0] + "."


SAVERS = {
    "without the head": lambda name, base: name.removeprefix(base),
    "in another model": lambda name, base: base + name,
    "torch.compile": lambda name, base: "_orig_mod." + name,
    "torch.compile, its inner model": lambda name, base: name.replace(
        base, base + "_orig_mod.", 1
    ),
    "DataParallel": lambda name, base: "module." + name,
    "both": lambda name, base: "module._orig_mod." + name,
    "FSDP": lambda name, base: "_fsdp_wrapped_module." + name,
    "activation checkpointing": lambda name, base: name.replace(
        ".0.", ".0._checkpoint_wrapped_module.", 1
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("saver", SAVERS)
def test_names_of_every_saver_become_those_of_the_table(saver, family):
    family = FAMILIES[family]
    files = {SAVERS[saver](name, base_of(family)): name for name in hf_names(family)}
    held = Held({name: np.zeros(0) for name in files})
    assert Renamed(held, renames_of(family)).origins == {
        name: file for file, name in files.items()
    }


def test_the_head_of_gpt_neox_has_another_name_in_transformers_5():
    held = Held({"lm_head.weight": np.zeros(1)})
    names = Renamed(held, renames_of(FAMILIES["gpt_neox"]))
    assert names.origins == {"embed_out.weight": "lm_head.weight"}


@pytest.mark.parametrize(
    "family, name",
    [
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq"),
        ("llama", "model.rotary_emb.inv_freq"),
        ("llama", "rotary_emb.inv_freq"),
        ("gemma3_text", "model.rotary_emb_local.inv_freq"),
        ("gpt_neox", "gpt_neox.rotary_emb.inv_freq"),
        ("gpt_neox", "layers.0.attention.masked_bias"),
        ("opt", "decoder.version"),
        ("gpt2", "h.0.attn.bias"),
    ],
)
def test_what_savers_leave_beside_the_weights_is_passed_over(family, name, tmp_path):
    tensors, _, _ = golden_with_head(family)
    folder = write(tmp_path / "lm", family, tensors | {name: np.zeros(2)}, tied=True)
    names, config = settled(folder)
    new = next(n for n, old in names.origins.items() if old == name)
    assert any(re.fullmatch(skip, new) for skip in FAMILIES[family].skipped(config))


def write(folder, family, tensors, tied):
    """A checkpoint of the family's golden case with other tensors; gives its folder."""
    folder.mkdir()
    entries = json.loads((GOLDEN / CASES[family] / "config.json").read_text())
    entries["tie_word_embeddings"] = tied
    if family == "gemma3":
        # Its text part says the opposite, which transformers does not read.
        text = {**entries, "tie_word_embeddings": not tied}
        entries = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
        entries["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(entries))
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    return str(folder)


def golden_with_head(family):
    """The tensors of the case with a head of its own, and the two names."""
    name_of = {row.ours: row.hf for row in FAMILIES[family].table}
    tensors = safetensors.numpy.load_file(GOLDEN / CASES[family] / WEIGHTS)
    embedding, head = name_of["embedding"], name_of["head"]
    rng = np.random.default_rng(0)
    tensors[head] = rng.standard_normal(tensors[embedding].shape, np.float32)
    return tensors, embedding, head


def settled(folder):
    """Names and config as `load_lm` has them, of a model that is not loaded."""
    hf = transformers.AutoConfig.from_pretrained(folder)
    family, checkpoint = FAMILIES[hf.model_type], Checkpoint(pathlib.Path(folder))
    names = Renamed(checkpoint, renames_of(family))
    return settle_head(checkpoint, names, family, family.config_from_hf(hf))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_its_own_is_used_though_config_json_says_tied(family, tmp_path):
    tensors, embedding, head = golden_with_head(family)
    folder = write(tmp_path / "lm", family, tensors, tied=True)
    names, config = settled(folder)
    assert not config.tied_embeddings
    assert {embedding, head} <= names.origins.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_equal_head_and_a_head_alone_are_the_embedding(family, tmp_path):
    tensors, embedding, head = golden_with_head(family)
    equal = tensors | {embedding: tensors[head]}
    names, config = settled(write(tmp_path / "equal", family, equal, tied=True))
    assert config.tied_embeddings and embedding in names.origins
    del tensors[embedding]
    names, config = settled(write(tmp_path / "alone", family, tensors, tied=True))
    assert config.tied_embeddings and names.origins[embedding] == head


@pytest.mark.parametrize("family", ["gpt_neox", "gemma3"])
def test_the_head_that_is_loaded_is_that_of_the_file(family, tmp_path):
    tensors, embedding, head = golden_with_head(family)
    lm = load_lm(write(tmp_path / "both", family, tensors, tied=True))
    np.testing.assert_array_equal(lm.params["head"], tensors[head])
    np.testing.assert_array_equal(lm.params["embedding"], tensors[embedding])
    del tensors[embedding]
    alone = load_lm(write(tmp_path / "alone", family, tensors, tied=True))
    np.testing.assert_array_equal(alone.params["embedding"], tensors[head])
    tensors[embedding] = tensors.pop(head)
    same = load_lm(write(tmp_path / "same", family, tensors, tied=True))
    assert same.fingerprint == alone.fingerprint != lm.fingerprint


def test_a_head_that_is_missing_is_named(tmp_path):
    tensors, _, head = golden_with_head("llama")
    del tensors[head]
    with pytest.raises(InputError, match="missing from the file: lm_head.weight"):
        load_lm(write(tmp_path / "lm", "llama", tensors, tied=False))


def test_a_checkpoint_of_strangers_is_not_listed_whole(tmp_path):
    tensors, _, _ = golden_with_head("llama")
    strange = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    with pytest.raises(InputError) as error:
        load_lm(write(tmp_path / "lm", "llama", strange, tied=False))
    message = str(error.value)
    assert message.count(".weight") == 8 and message.count("and 17 more") == 2
