"""Random IC-Formers and what the equations in PyTorch give, for the default tests.

    PYTHONPATH=tests python tests/golden/make_icformer_golden.py

Takes a second and needs the extra `parity` (torch).
"""

import pathlib

import numpy as np
import torch
from torch_icformer import random_weights, soft_prompt

HERE = pathlib.Path(__file__).parent
LENGTHS = (1, 4, 9, 7)  # of chunks; fewer words than digests, as many, more
# D, F, N and the number of kv heads are those of `tiny_lm`, or plain multi-head attention.
SHAPES = {
    "icformer": {"D": 16, "F": 24, "N": 4, "K": 4, "L": 3, "M": 4},
    "icformer_grouped": {"D": 16, "F": 24, "N": 4, "K": 2, "L": 2, "M": 5},
}


def main() -> None:
    """Makes both files."""
    for name, shape in SHAPES.items():
        weights = random_weights(**shape, seed=len(name))
        words = torch.randn(len(LENGTHS), max(LENGTHS), shape["D"])
        options = {key: shape[key] for key in "NKL"}
        wanted = [
            soft_prompt(weights, row[:n], **options)
            for row, n in zip(words, LENGTHS, strict=True)
        ]
        arrays = {f"weights/{key}": value.numpy() for key, value in weights.items()}
        np.savez_compressed(
            HERE / f"{name}.npz",
            **arrays,
            words=words.numpy(),
            lengths=np.array(LENGTHS, np.int32),
            soft_prompts=torch.stack(wanted).numpy(),
            torch=torch.__version__,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
