import contextlib
import dataclasses
import importlib
import json
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import transformers
from etils import epath

from memcomp import pretrain
from memcomp.data.windows import flat_tokens, windows
from memcomp.errors import InputError
from memcomp.lm.load import abstract_params, load_lm
from memcomp.models.gpt_neox import GPTNeoX, GPTNeoXConfig
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.runs import training
from memcomp.runs.pretraining import ADVICE

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "pretrain").glob("*.py"))
SIZES = dict(vocab_size=280, num_layers=2, d_model=32, d_mlp=48, num_heads=2)
SIZES |= dict(num_kv_heads=1, head_dim=16, max_positions=32)
MODULE = Llama(LlamaConfig(**SIZES, rotary=Rotary(16), tied_embeddings=True))
TRAIN = dict(num_tokens=12 * 4 * 16, window=16, batch_size=4, warmup=0.1, decay=0.5)
TRAIN |= dict(learning_rate=1e-2, embedding_learning_rate=2e-2)
TRAIN |= dict(weight_decay=0.1, max_grad_norm=1.0)
# Equal to what the script makes of `tiny`, so that one program serves all tests.
CFG = pretrain.TrainConfig(**TRAIN, dtype="float32")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        yield importlib.import_module("pretrain_lm")


@pytest.fixture(scope="module")
def state():
    return pretrain.init_state(jax.random.key(0), module=MODULE, cfg=CFG)


def load_config(name):
    return runpy.run_path(str(ROOT / "configs" / "pretrain" / name))["get_config"]()


@pytest.mark.slow
def test_muon_sees_matrices_of_each_layer_and_adam_the_rest_without_decay(state):
    params = state.params
    grads = jax.tree.map(
        lambda x: 1e-3 * jax.random.normal(jax.random.key(x.size), x.shape), params
    )
    assert optax.tree.norm(grads) < CFG.max_grad_norm
    tx = pretrain.optimizer(MODULE, CFG)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)

    muon = optax.contrib.muon(
        pretrain.schedule(CFG, CFG.learning_rate),
        weight_decay=CFG.weight_decay,
        consistent_rms=0.2,
    )
    muon_update = jax.jit(muon.update)
    # [D N H] -> [D, N H], [N H D] -> [N H, D], [F D]
    flat = {("attn", "q"): (32, 32), ("attn", "out"): (32, 32), ("mlp", "down"): (48, 32)}
    for (part, name), shape in flat.items():
        for layer in range(2):
            grad, param, got = (
                tree["layers"][part][name]["kernel"][layer].reshape(shape)
                for tree in (grads, params, updates)
            )
            want, _ = muon_update(grad, muon.init(param), param)
            # Measured 3e-9, of updates of 2e-3 and decay of 1e-5.
            np.testing.assert_allclose(got, want, atol=2e-8)

    adam = optax.adamw(
        pretrain.schedule(CFG, CFG.embedding_learning_rate),
        b2=0.95,
        weight_decay=0.0,
        nesterov=True,
    )
    rest = [i for i, axes in enumerate(flat_axes()) if axes is None]
    assert len(rest) == 4  # the embedding and three norms
    pick = lambda tree: [jax.tree.leaves(tree)[i] for i in rest]  # noqa: E731
    want, _ = jax.jit(adam.update)(pick(grads), adam.init(pick(params)), pick(params))
    for a, b in zip(pick(updates), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def flat_axes():
    axes = pretrain.matrix_axes(MODULE)
    leaf = lambda x: x is None or isinstance(x, tuple)  # noqa: E731
    return jax.tree.leaves(axes, is_leaf=leaf)


def test_slots_of_a_fused_kernel_are_matrices_of_their_own():
    config = GPTNeoXConfig(
        vocab_size=300,
        num_layers=2,
        d_model=32,
        d_mlp=48,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        max_positions=32,
        rotary=Rotary(16),
    )
    module = GPTNeoX(config)
    layers = pretrain.matrix_axes(module)["layers"]
    qkv = layers["attn"]["qkv"]  # [L D 3 N H]
    assert qkv["kernel"] == optax.contrib.MuonDimensionNumbers((1,), (3, 4))
    assert layers["attn"]["out"]["kernel"] == optax.contrib.MuonDimensionNumbers(
        (1, 2), (3,)
    )
    assert qkv["bias"] is None


def test_the_rate_rises_stays_and_falls_to_almost_nothing():
    cfg = pretrain.TrainConfig(1000, 1, 1, 1.0, 1.0, 0.1, 0.3, 0.1, 1.0, "float32")
    rates = np.asarray([float(pretrain.schedule(cfg, 2.0)(i)) for i in range(1000)])
    assert rates[0] == pytest.approx(0.02) and (rates > 0).all()
    np.testing.assert_allclose(np.diff(rates[:100]), 0.02, rtol=1e-4)
    np.testing.assert_array_equal(rates[100:701], 2.0)
    np.testing.assert_allclose(
        rates[700:], 2 - 2 * np.sqrt(np.arange(300) / 300), atol=1e-6
    )


def test_the_loss_and_its_gradient_are_those_of_the_logits(state):
    tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, 280)
    remat = Llama(dataclasses.replace(MODULE.config, remat="full"))

    def plain(params):
        apply = {"params": params}
        x = MODULE.apply(apply, tokens[:, :-1], method="embed")
        logits = MODULE.apply(apply, x)[0] @ params["embedding"].T
        logp = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1).mean()

    def ours(params, dtype):
        return pretrain.mean_loss(params, tokens, module=remat, dtype=dtype)

    # Larger weights than fresh ones, whose logits are almost nothing.
    params = jax.tree.map(lambda x: 5 * x, state.params)
    want, want_grad = jax.jit(jax.value_and_grad(plain))(params)
    grad = jax.jit(jax.value_and_grad(ours), static_argnums=1)
    got, got_grad = grad(params, jnp.float32)
    assert got == pytest.approx(float(want), rel=1e-5)
    for a, b in zip(jax.tree.leaves(got_grad), jax.tree.leaves(want_grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    got, got_grad = jax.eval_shape(lambda p: grad(p, jnp.bfloat16), params)
    assert got.dtype == jnp.float32
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(got_grad))


def test_small_fits_into_24_mb():
    module = pretrain.make_model(**load_config("small.py").model)
    size = sum(np.prod(x.shape) for x in jax.tree.leaves(abstract_params(module)))
    assert size == 11_965_760  # 23.93 MB in bfloat16


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_is_read_in_full(path):
    config = load_config(path.name)
    cfg = pretrain.TrainConfig(**config.train, dtype="float32")
    assert cfg.window <= pretrain.make_model(**config.model).config.max_positions
    names = ("pretrain_lm", "benchmarks/compile_records")
    scripts = (ROOT / "experiments" / f"{name}.py" for name in names)
    source = "".join(script.read_text() for script in scripts)
    assert all(f"config.{name}" in source for name in config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"warmup": 0.8, "decay": 0.3}, "sum to at most 1"),
        ({"dtype": "float8"}, "float8"),
    ],
)
def test_settings_without_sense_are_refused(changes, message):
    given = dict(load_config("tiny.py").train, dtype="float32") | changes
    with pytest.raises(InputError, match=message):
        pretrain.TrainConfig(**given)


def test_the_tokenizer_reads_any_bytes_and_transformers_loads_it(tmp_path):
    made = pretrain.train_tokenizer(["the cat and the dog and the rat"] * 3, 270)
    assert 257 < made.get_vocab_size() <= 270
    pretrain.save_tokenizer(made, epath.Path(tmp_path), 32)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.bos_token_id == loaded.eos_token_id == loaded.pad_token_id == 0
    for text in ("the cat", " \n\tÄ 猫\x00\x7f", "dogs' “rats”"):
        ids = loaded(text)["input_ids"]
        assert ids == made.encode(text).ids
        assert loaded.decode(ids) == text


def test_chunks_lower_the_loss_and_count_their_steps(state):
    tokenizer = pretrain.train_tokenizer([], 257)
    tokens = flat_tokens(["over and over the same words come " * 40], tokenizer, 0)
    batches = windows(tokens, length=16, batch_size=4, num_batches=12, seed=0)
    state = jax.tree.map(jnp.copy, state)  # it is donated
    losses = []
    for chunk in batches.batch(2):
        state, metrics = pretrain.train_chunk(state, chunk, module=MODULE, cfg=CFG)
        losses += [float(loss) for loss in metrics["loss"]]
    assert int(state.step) == 12 == CFG.num_steps
    assert losses[0] == pytest.approx(np.log(280), abs=0.1)
    assert losses[-1] < losses[0] - 0.5


# --- the script ---------------------------------------------------------------------

WORDS = "the cat saw a dog and the dog saw the cat but no rat was seen by them at all"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("valid", 1)):
        (folder / split).mkdir()
        for i in range(count):
            words = " ".join(rng.choice(WORDS.split(), 400))
            (folder / split / f"{i}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module")
def whole(script, texts):
    script.main(tiny(texts), str(texts / "whole"))
    return texts / "whole"


def tiny(folder, **changes):
    config = load_config("tiny.py")
    config.texts, config.valid = str(folder / "train"), str(folder / "valid")
    config.model.update(SIZES)
    config.train.update(TRAIN)
    config.update(steps_per_chunk=2, save_every=4, evaluate_every=6)
    config.update(changes)
    return config


class Killed(BaseException):
    """Stands for the end of a process; no part of the code catches it."""


@pytest.mark.ci
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    script, texts, whole, monkeypatch
):
    cut = texts / "cut"
    check = training.check_finite

    def stop(before, losses, advice):
        check(before, losses, advice)
        if before >= 6:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(training, "check_finite", stop)
        script.main(tiny(texts), str(cut))
    assert not (cut / "model").exists()
    script.main(tiny(texts), str(cut))
    names = [
        "model/model.safetensors",
        "model/tokenizer.json",
        "tokens.npy",
        "summary.json",
    ]
    for name in names:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [read_log(run) for run in (whole, cut)]
    assert [r["step"] for r in logs[0]] == [2, 4, 6, 8, 10, 12]
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        assert all(a[k] == b[k] for k in a if k != "tokens_per_second")
    assert [r["step"] for r in logs[0] if "valid_bits_per_byte" in r] == [6, 12]


def read_log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_model_is_a_folder_that_load_lm_reads(whole):
    lm = load_lm(str(whole / "model"), dtype="bfloat16")
    assert lm.config == MODULE.config and lm.tokenizer.bos_token_id == 0
    config = json.loads((whole / "model" / "config.json").read_text())
    assert (config["dtype"], config["bos_token_id"]) == ("bfloat16", 0)


@pytest.mark.parity
def test_transformers_loads_the_model_with_the_same_logits(whole):
    torch = importlib.import_module("torch")
    folder = str(whole / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    lm = load_lm(folder)
    tokens = np.asarray([lm.tokenizer("the cat saw a dog")["input_ids"]])
    with torch.no_grad():
        want = theirs(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(lm.logits(tokens), want, atol=1e-5)


def test_a_workdir_of_another_config_is_refused(script, texts, whole):
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        script.main(tiny(texts, seed=1), str(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1; it must be 0"),
        ({"steps_per_chunk": 0}, "steps_per_chunk is 0; it must be 1"),
        ({"save_every": 0}, "save_every is 0; it must be 1"),
        ({"evaluate_every": 0}, "evaluate_every is 0; it must be 1"),
        ({"model.vocab_size": 256}, "model.vocab_size is 256; it must be 257"),
        ({"model.num_kv_heads": 0}, "model.num_kv_heads is 0; it must be 1"),
        ({"model.head_dim": 7}, "model.head_dim is 7; give an even number"),
        ({"train.max_grad_norm": 0.0}, "max_grad_norm is 0.0; it must be above 0"),
    ],
)
def test_numbers_without_sense_are_refused_before_anything_is_written(
    script, texts, tmp_path, changes, message
):
    config = tiny(texts)
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=message):
        script.main(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_texts_that_cannot_be_used_are_refused(script, texts, tmp_path):
    def main(name):
        folder = tmp_path / name
        script.main(tiny(texts, texts=str(folder)), str(tmp_path / "run"))

    for name, text in (("empty", None), ("bad", b"caf\xe9 au lait"), ("short", b"the")):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "a.txt").write_bytes(text)
    with pytest.raises(InputError, match="no .txt files"):
        main("empty")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8"):
        main("bad")
    with pytest.raises(InputError, match="fewer than the 17 of one window"):
        main("short")
    with pytest.raises(InputError, match="--config.texts=FOLDER"):
        script.main(load_config("nano.py"), str(tmp_path / "run"))
    # Texts of no use do not bind the workdir to them.
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_named_by_its_step():
    training.check_finite(10, np.asarray([1.0, 2.0]), ADVICE)
    with pytest.raises(InputError, match="nan at step 12; lower train.learning_rate"):
        training.check_finite(10, np.asarray([1.0, np.nan, np.inf]), ADVICE)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_ends_with_the_same_weights(texts, tmp_path):
    def start(workdir):
        flags = {"config.texts": texts / "train", "config.valid": texts / "valid"}
        flags |= {"config.train.num_tokens": 300_000, "config.save_every": 20}
        flags |= {"config.model.d_model": 64, "config.model.d_mlp": 64, "workdir": workdir}
        flags |= {"config.model.head_dim": 32}
        command = [sys.executable, str(ROOT / "experiments" / "pretrain_lm.py")]
        command += [f"--{name}={value}" for name, value in flags.items()]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole).wait() == 0
    process = start(cut)
    while not any((cut / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (cut / "model").exists()
    assert start(cut).wait() == 0
    name = "model/model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    steps = [r["step"] for r in read_log(cut)]
    assert steps == sorted(set(steps)) == [r["step"] for r in read_log(whole)]
