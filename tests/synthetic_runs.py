"""Run folders with records that no LM has made: plausible, quick, the same for a seed."""

import json
import math
import pathlib
import sys

import numpy as np

# Nats a token without memory, and bytes a token.
SOURCES = {
    "novels": (3.6, 3.9),
    "stories": (2.4, 4.0),
    "random_words": (7.4, 4.6),
    "pg19": (3.6, 3.9),
}
SWEPT = ("novels", "stories", "random_words")
BUILTIN = {
    "name": "builtin",
    "revision": None,
    "sha256": "5e" * 32,
    "parameters": 4_000_000,
    "d_model": 256,
    "vocab_size": 4096,
    "model_type": "llama",
    "dtype": "float32",
}
PYTHIA = BUILTIN | {
    "name": "EleutherAI/pythia-160m",
    "revision": "50f5173d932e8e61f858120bcb800b97af589f46",
    "parameters": 162_322_944,
    "d_model": 768,
    "vocab_size": 50304,
    "model_type": "gpt_neox",
}
SMOLLM2 = BUILTIN | {
    "name": "a/folder/smollm2-135m-instruct",
    "parameters": 134_515_008,
    "d_model": 576,
    "vocab_size": 49152,
}
WORDS = (
    "the rain fell on grey roofs and no one said <b>why</b> & how ”they” </script> ".split()
)


def config(lm, source, num_memory, protocol, seed=0, recipe="default"):
    """config.json of a cell."""
    return {
        "config": {
            "lm": lm["name"],
            "source": source,
            "texts": f"where {source} are",
            "num_memory": num_memory,
            "seed": seed,
            "protocol": protocol,
            "recipe": recipe,
            "dtype": "float32",
        },
        "lm": lm,
        "texts": {"sha256": (source or "").encode().hex().ljust(64, "0")},
        "versions": {"python": "3.11", "jax": "0.10.2"},
        "devices": ["cpu"],
        "git": "abc1234",
    }


def record(rng, lm, source, num_memory, protocol, text_id, T, *, detail=True):
    """A line of results.jsonl."""
    nats, width = SOURCES[source]
    held = 0.5 * lm["d_model"] * num_memory**0.9 * (1 + 0.08 * rng.normal())
    surprise = rng.gamma(2.0, nats / 2, T)
    total = float(surprise.sum())
    fits = total < held
    loss = (0.02 * total if fits else total - held) / T
    wrong = 0 if fits else max(1, round(0.6 * T * (1 - held / total)))
    scored = T - (protocol == "reference")
    accuracy, without = 1 - wrong / scored, max(0.0, 0.45 - 0.05 * nats)
    gain = total - loss * T
    steps = int(300 * min(3.0, 0.2 + total / held))
    line = {
        "text_id": text_id,
        "restart": 0,
        "seed_id": text_id,
        "source": source,
        "num_tokens": T,
        "num_memory": num_memory,
        "memory": "vectors",
        "num_parameters": num_memory * lm["d_model"],
        "protocol": protocol,
        "accuracy": accuracy,
        "exact_teacher_forced": fits,
        "exact_greedy": fits,
        "exact_greedy_bfloat16": bool(fits and rng.random() < 0.9),
        "greedy_prefix_tokens": T - wrong,
        "margin_logits": 0.1,
        "steps": steps,
        "token_steps": steps * T,
        "loss_nats": loss,
        "baseline_loss_nats": total / T,
        "baseline_accuracy": without,
        "information_gain_nats": gain,
        "information_gain_bits": gain / math.log(2),
        "memory_bits": 32 * num_memory * lm["d_model"],
        "token_gain": (accuracy - without) * T,
        "seconds": 1.0,
        "num_bytes": round(T * width),
        "text_sha256": f"{text_id:064x}",
        "memory_file": "memory/00000000.safetensors",
        "memory_key": str(text_id),
    }
    if detail:
        right = np.round(steps * rng.beta(1.5, 4, T) * (0.3 + surprise / nats)).astype(int)
        right[rng.permutation(T)[:wrong]] = -1
        given = T - scored
        tokens = [" " + WORDS[i] for i in rng.integers(0, len(WORDS), T)]
        shown = np.linspace(0, steps, 100).astype(int).tolist()
        line |= {
            "first_right_steps": [-1] * given + right.tolist()[given:],
            "surprise_nats": [None] * given + surprise.round(4).tolist()[given:],
            "tokens_text": tokens,
            "text": "".join(tokens),
            "decoded": "".join(tokens[: T - wrong]),
            "curve": {"steps": shown, "loss_nats": [0.5] * 100, "accuracy": [0.5] * 100},
        }
    return line


def write_run(folder, about, lines, name="results.jsonl"):
    """A run folder; `lines` may be a generator."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    with open(folder / name, "a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    return folder


def make_cell(
    top, lm, source, num_memory, protocol, lengths, num_texts, *, detail=True, **about
):
    """A cell of a sweep: every text at every length."""
    seed = about.get("seed", 0)
    rng = np.random.default_rng([seed, num_memory, len(source), lm["d_model"]])
    name = lm["name"].rpartition("/")[2]
    folder = top / "cells" / f"{name}-{source}-k{num_memory}-{protocol}-s{seed}"
    lines = (
        record(rng, lm, source, num_memory, protocol, text_id, T, detail=detail)
        for T in lengths
        for text_id in range(num_texts)
    )
    return write_run(folder, config(lm, source, num_memory, protocol, **about), lines)


def make_geometry(folder, num_pairs=12):
    """A run with geometry.jsonl."""
    rng = np.random.default_rng(4)
    lines = []
    for same, mean, n in ((True, 0.55, 600), (False, 0.4, 2000)):
        lines += [
            {"kind": "cosine", "same_text": same, "cosine": float(x)}
            for x in rng.normal(mean, 0.08, n)
        ]
    for path, depth in (("line", 0.7), ("bezier", 0.03)):
        for pair in range(num_pairs):
            for theta in np.linspace(0, 1, 21).tolist():
                dip = 4 * theta * (1 - theta) * depth * (0.8 + 0.2 * rng.random())
                line = {"kind": "path", "theta": theta, "accuracy": 1 - dip}
                ratio = 1 + 0.2 * (path == "bezier")
                lines.append(line | {"path": path, "pair": pair, "length_ratio": ratio})
    lines += [{"kind": "restart", "exact": i > 1} for i in range(40)]
    for of, norm in (("memory", 60), ("start", 2.1), ("vocabulary", 2.0)):
        for x in rng.uniform(0.8, 1.2, 50).tolist():
            near = {"norm": norm * x, "cosine": 0.3 * x, "distance": norm}
            lines.append({"kind": "norm", "of": of} | near)
    for scale in (0.5, 1.0, 1.5):
        for i in range(10):
            share = 1 - abs(scale - 1) * i / 10
            lines.append({"kind": "scale", "scale": scale, "accuracy": share})
    shares = (0.8 * 0.2 ** np.arange(10)).tolist()
    for text in range(3):
        for restart in range(4):
            ends = np.outer(np.linspace(0, 1, 6), rng.normal(text, 0.3, 3) * 9)
            line = {"kind": "trajectory", "text_id": text, "restart": restart}
            line |= {"exact": restart > 0, "steps": list(range(6)), "points": ends.tolist()}
            lines.append(line | {"explained": shares, "explained_alone": shares})
    about = config(BUILTIN, "novels", 1, "strict")
    return write_run(folder, about, lines, "geometry.jsonl")


def make_use(folder, num_texts=6, num_layers=3):
    """A run with use.jsonl; the last text does not come back."""
    rng = np.random.default_rng(8)
    lines = []

    def add(kind, **fields):
        for text_id in range(num_texts):
            line = {"kind": kind, "text_id": text_id, "source": "novels", "num_tokens": 6}
            line |= {"num_memory": 1, "exact": text_id < num_texts - 1}
            if kind == "attention":
                heads = rng.uniform(0.2, 0.6, 4).tolist()
                line |= {"heads": heads, "mass": sum(heads) / 4, "uniform": 0.3}
            else:
                line |= {"loss_nats": rng.uniform(2, 5), "accuracy": rng.uniform()}
            lines.append(line | fields)

    for condition in ("memory", "start token"):
        for layer in range(num_layers):
            add("attention", condition=condition, layer=layer)
    for a, b in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        add("knockout", condition="memory", first=a, last=b)
    add("knockout", condition="start token")
    for condition in ("nothing", "text", "memory", "memory, text", "other memory"):
        add("use", condition=condition)
    for condition, k in (("memory", 1), ("nothing", 0), ("before", 4), ("doubled", 6)):
        add("context", condition=condition, num_context=k)
    return write_run(folder, config(BUILTIN, "novels", 1, "strict"), lines, "use.jsonl")


def make_compression(folder, num_texts=20):
    """A run of classical compressors."""
    rng = np.random.default_rng(5)
    ratios = {"zlib": 1.3, "bz2": 1.2, "lzma": 1.1, "huffman": 1.8, "arithmetic": 3.2}
    lines = []
    for source in SWEPT:
        for method, mean in ratios.items():
            for text_id in range(num_texts):
                ratio = mean * (1 + 0.05 * rng.normal())
                line = {"kind": "compression", "method": method, "text_id": text_id}
                line |= {"source": source, "text_bytes": 500, "ratio": ratio}
                lines.append(line | {"compressed_bits": round(4000 / ratio)})
    return write_run(folder, config(BUILTIN, "all", 1, "strict"), lines)


def make_horizons(
    folder,
    source,
    lm=BUILTIN,
    num_texts=12,
    num_memory=1,
    recipe="default",
    memory="vectors",
):
    """A horizon run of one source."""
    rng = np.random.default_rng([6, len(source)])
    nats, _ = SOURCES[source]
    lines, growth = [], []
    for text_id in range(num_texts):
        bits = 180 * num_memory**0.9 * (1 + 0.1 * rng.normal())
        bits *= 5 if memory == "cache" else 1
        tokens = max(1, round(bits * math.log(2) / nats))
        line = {"text_id": text_id, "seed_id": text_id, "source": source}
        line["horizon"] = tokens
        line |= {
            "num_tokens": 60,
            "failed": tokens + 1 if tokens < 60 else None,
            "horizon_bits": bits,
            "information_gain_bits": 0.7 * bits,
            "steps": 900,
            "token_steps": 900 * tokens,
            "memory": memory,
            "num_parameters": num_memory * (1024 if memory == "cache" else 64),
        }
        lines.append(line | {"protocol": "strict", "num_memory": num_memory})
        some = ("text_id", "seed_id", "source", "protocol", "num_memory", "memory")
        same = {name: lines[-1][name] for name in some}
        for part in (0.25, 0.5, 1):
            cost = round(900 * tokens * part**2)
            more = {"prefix": math.ceil(tokens * part), "token_steps": cost}
            growth.append(same | more)
    about = config(lm, source, num_memory, "strict", recipe=recipe)
    about["config"]["memory"] = memory
    write_run(folder, about, growth, "growth.jsonl")
    return write_run(folder, about, lines, "horizons.jsonl")


def make_sweep(top, num_texts=24):
    """A small sweep with something for every table and figure."""
    top = pathlib.Path(top)
    lengths = (8, 16, 24, 32, 48, 64, 96, 128)
    for source in SWEPT:
        make_cell(top, BUILTIN, source, 1, "strict", lengths, num_texts)
        make_horizons(top / f"horizons-{source}", source)
    for recipe in ("default", "low_dim"):
        make_horizons(top / f"smollm2-{recipe}", "novels", SMOLLM2, recipe=recipe)
    for num_memory in (1, 2):
        where = top / f"horizons-cache-{num_memory}"
        make_horizons(where, "novels", num_memory=num_memory, memory="cache")
    for num_memory in (2, 4, 8):
        make_horizons(top / f"horizons-k{num_memory}", "novels", num_memory=num_memory)
        longer = [T * num_memory for T in lengths]
        make_cell(top, BUILTIN, "novels", num_memory, "strict", longer, 8)
    make_cell(top, BUILTIN, "novels", 1, "reference", lengths, num_texts)
    rng = np.random.default_rng(7)
    for source in ("pg19", "random_words"):
        spread = range(2, 160) if source == "random_words" else (*lengths, 192, 256)
        per = 1 if source == "random_words" else num_texts
        lines = [
            record(rng, PYTHIA, source, 1, "reference", i + j * (per == 1), T)
            for j, T in enumerate(spread)
            for i in range(per)
        ]
        about = config(PYTHIA, source, 1, "reference", recipe="reference")
        write_run(top / f"pythia-{source}", about, lines)
    for k, spread in ((2, (96, 128, 192, 256, 384)), (4, (192, 256, 384, 512, 768))):
        make_cell(top, PYTHIA, "pg19", k, "reference", spread, 8, recipe="reference")
    make_geometry(top / "geometry")
    make_use(top / "use")
    make_compression(top / "compress")
    return top


def make_long_sweep(top, num_lines):
    """Cells of 2,000 lines; as many as `num_lines` needs. For measuring."""
    lengths = (8, 16, 24, 32, 48, 64, 96, 128)
    cells = num_lines // 2000
    for i in range(cells):
        source = SWEPT[i % len(SWEPT)]
        num_memory = (1, 2, 4)[i // len(SWEPT) % 3]
        longer = [T * num_memory for T in lengths]
        make_cell(top, BUILTIN, source, num_memory, "strict", longer, 250, seed=i)


if __name__ == "__main__":
    # python tests/synthetic_runs.py FOLDER [LINES]: with lines, a sweep to measure with.
    _folder, *_lines = sys.argv[1:]
    if _lines:
        make_long_sweep(pathlib.Path(_folder), int(_lines[0]))
    else:
        make_sweep(_folder)
