"""The PyTorch loops that benchmark.py compares memcomp with.

They follow the authors' method, but contain none of their code: a transformers model with
frozen weights, memory as a parameter in front of the token embeddings, AdamW, loss and
accuracy at every step, one text at a time. Where the authors' loop does less work than ours
or wastes some, this one is stricter and faster: all T tokens are predicted, the first one
too; no hidden states and no key-value cache are kept; all texts share one loaded model.

Source: Kuratov et al. 2025, arXiv:2502.13063, section 3 and appendix A.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

ATTENTION = ("eager", "sdpa")


class Ended(NamedTuple):
    """How the cramming of one text ended."""

    steps: int
    exact: bool


def load(folder: str, dtype: str, attention: str) -> Any:
    """Loads the frozen model of a folder, on the GPU if torch has one."""
    torch.set_num_threads(os.cpu_count() or 1)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device)


def random_model(
    entries: dict[str, Any], dtype: str, attention: str, compiled: bool
) -> Any:
    """Makes a frozen model with random weights from a config.json, on the same device."""
    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.AutoConfig.for_model(**entries)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    model = model.eval().requires_grad_(False)
    return torch.compile(model) if compiled else model


def peak() -> dict[str, Any]:
    """Name and peak memory of the GPU since the last call; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes_in_use": found, "gpu": torch.cuda.get_device_name()}


def matmul_rate(shape: Sequence[int], dtype: str, times: int = 20) -> float:
    """Measures the FLOP/s of one large matrix product."""
    rows, inner, columns = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(rows, inner, dtype=getattr(torch, dtype), device=device)
    b = torch.ones(inner, columns, dtype=a.dtype, device=device)
    _wait(a @ b)
    begin = time.perf_counter()
    for _ in range(times):
        product = a @ b
    _wait(product)
    return times * 2 * rows * inner * columns / (time.perf_counter() - begin)


def fastest(folder: str, dtype: str, tokens: np.ndarray, steps: int) -> tuple[Any, str]:
    """Loads the model with the attention whose loop over single texts is faster here."""
    seconds = {}
    for name in ATTENTION:
        model = load(folder, dtype, name)
        run_steps(model, tokens[:1], steps)
        seconds[name] = min(run_steps(model, tokens[:1], steps) for _ in range(3))
    best = min(seconds, key=seconds.__getitem__)
    return load(folder, dtype, best), best


def run_steps(model: Any, tokens: np.ndarray, steps: int) -> float:
    """Seconds of `steps` updates of all texts [B T] at once; the authors have B = 1."""
    loop = _Loop(model, tokens)
    _wait(model)
    begin = time.perf_counter()
    for _ in range(steps):
        loop.step()
    _wait(model)
    return time.perf_counter() - begin


def cram(model: Any, tokens: np.ndarray, max_steps: int, patience: int) -> Ended:
    """Crams a text [T] until exact, no new best for `patience` steps, or `max_steps`."""
    loop = _Loop(model, tokens[None])
    best, stale = -1.0, 0
    for step in range(1, max_steps + 1):
        accuracy = loop.step()[0]
        if accuracy == 1.0:
            return Ended(step, True)
        stale = 0 if accuracy > best else stale + 1
        best = max(best, accuracy)
        if stale >= patience:
            break
    return Ended(step, False)


def time_sample(
    folder: str, tokens: np.ndarray, sample: np.ndarray, max_steps: int, patience: int
) -> dict[str, Any]:
    """Estimates the seconds for all texts [B T] from a random sample of them.

    The time to load the model is not counted.
    """
    model, attention = fastest(folder, "float32", tokens, 20)
    seconds, ended = [], []
    for i in sample:
        begin = time.perf_counter()
        ended.append(cram(model, tokens[i], max_steps, patience))
        seconds.append(time.perf_counter() - begin)
    n, k = len(tokens), len(sample)
    # The sample is without replacement, so the error is 0 if it contains all texts.
    error = n * np.std(seconds, ddof=1) * (1 / k - 1 / n) ** 0.5
    return {
        "pytorch_attention": attention,
        "pytorch_seconds": n * float(np.mean(seconds)),
        "pytorch_seconds_standard_error": float(error),
        "pytorch_texts_run": k,
        "pytorch_exact": sum(e.exact for e in ended),
        "pytorch_mean_steps": float(np.mean([e.steps for e in ended])),
    }


class _Loop:
    """Memory [B 1 D] of texts [B T], and its optimiser, which treats entries separately."""

    def __init__(self, model: Any, tokens: np.ndarray):
        self._model = model
        table = model.get_input_embeddings().weight
        self._targets = torch.as_tensor(tokens, dtype=torch.long, device=table.device)
        self._read = model.get_input_embeddings()(self._targets[:, :-1])
        shape = (len(tokens), 1, table.shape[1])
        start = torch.randn(shape, device=table.device) * table.float().std()
        self._memory = torch.nn.Parameter(start)
        self._optimizer = torch.optim.AdamW(
            [self._memory], lr=1e-2, betas=(0.9, 0.9), weight_decay=0.01
        )

    def step(self) -> list[float]:
        """Takes one step; returns the accuracy of each text before it."""
        x = torch.cat([self._memory.to(self._read.dtype), self._read], dim=1)
        logits = self._model(inputs_embeds=x, use_cache=False).logits.float()
        # A sum over texts of each mean, so that no text affects another's gradient.
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self._targets.flatten(), reduction="sum"
        )
        right = logits.argmax(dim=-1) == self._targets
        accuracy = right.float().mean(dim=1).tolist()
        self._optimizer.zero_grad(set_to_none=True)
        (loss / self._targets.shape[1]).backward()
        self._optimizer.step()
        return accuracy


def _wait(there: Any) -> None:
    if there.device.type == "cuda":
        torch.cuda.synchronize()
