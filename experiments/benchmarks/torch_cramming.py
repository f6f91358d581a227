"""The PyTorch loops that benchmark.py measures memcomp against.

Written after the authors' way of working, with no code of theirs: a transformers model
with frozen weights, memory as a parameter in front of the token embeddings, AdamW, loss
and accuracy at every step, one text at a time. Where theirs does less work than ours or
wastes some, this one is the stricter and the faster: all T tokens are predicted, the first
one too; no hidden states and no key-value cache are kept; nothing is loaded twice.

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
    """The frozen model of a folder, on the GPU where torch has one."""
    torch.set_num_threads(os.cpu_count() or 1)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device)


def random_model(
    entries: dict[str, Any], dtype: str, attention: str, compiled: bool
) -> Any:
    """A frozen model of a config.json with random weights, as `load` has it."""
    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.AutoConfig.for_model(**entries)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    model = model.eval().requires_grad_(False)
    return torch.compile(model) if compiled else model


def peak() -> dict[str, Any]:
    """The GPU and most bytes that it has held since the last call; empty without one."""
    if not torch.cuda.is_available():
        return {}
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes_in_use": found, "gpu": torch.cuda.get_device_name()}


def matmul_rate(shape: Sequence[int], dtype: str, times: int = 20) -> float:
    """Floating-point operations per second of one large product."""
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
    """The model with the attention whose loop over single texts is faster here."""
    seconds = {}
    for name in ATTENTION:
        model = load(folder, dtype, name)
        run_steps(model, tokens[:1], steps)
        seconds[name] = min(run_steps(model, tokens[:1], steps) for _ in range(3))
    best = min(seconds, key=seconds.__getitem__)
    return load(folder, dtype, best), best


def run_steps(model: Any, tokens: np.ndarray, steps: int) -> float:
    """Seconds of so many updates of all texts [B T] at once; B = 1 is the authors' way."""
    loop = _Loop(model, tokens)
    _wait(model)
    begin = time.perf_counter()
    for _ in range(steps):
        loop.step()
    _wait(model)
    return time.perf_counter() - begin


def cram(model: Any, tokens: np.ndarray, max_steps: int, patience: int) -> Ended:
    """One text [T] to its end: exact, no new best for `patience` steps, or `max_steps`."""
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
    """Seconds for all texts [B T], from those of a random sample of them.

    The model is loaded once, and what it takes to load is not counted.
    """
    model, attention = fastest(folder, "float32", tokens, 20)
    seconds, ended = [], []
    for i in sample:
        begin = time.perf_counter()
        ended.append(cram(model, tokens[i], max_steps, patience))
        seconds.append(time.perf_counter() - begin)
    n, k = len(tokens), len(sample)
    # Drawn without replacement: no error where the sample is all there is.
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
    """Memory [B 1 D] of the texts [B T] and its optimiser, which acts entry by entry."""

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
        """One update; the accuracy of each text before it."""
        x = torch.cat([self._memory.to(self._read.dtype), self._read], dim=1)
        logits = self._model(inputs_embeds=x, use_cache=False).logits.float()
        # The sum over texts of each one's mean: no text weighs on another's gradient.
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
