"""How large the compiled program of the next chunk is: its batch slots and its tokens.

Smaller programs save the work of empty slots and of tokens that no text looks at, and each
has to be compiled. Sizes are functions of what is in flight and of counted work, not of the
clock, so that a run that is resumed takes the same ones.
"""

import jax

from memcomp.cram.objective import SHORT

# FLOPs that a device computes while the loop is compiled for another size. CPU: 2 to 4 s at
# 1.6e11 FLOP/s, SmolLM2-135M on two cores; the others are guessed.
COMPILATION = {"cpu": 6e11, "gpu": 3e14, "tpu": 3e14}
# Steps of a growing text at one padded length, in which a compilation must pay for itself.
STEPS_AT_A_LENGTH = 40


def pays(flops: float) -> bool:
    """Whether as much work has been wasted, or can be saved, as one compilation costs."""
    return flops >= COMPILATION[jax.default_backend()]


def step_flops(num_params: int, num_tokens: int) -> float:
    """FLOPs of a gradient step of so many tokens to the input vectors."""
    return 4.0 * num_params * num_tokens


def padded_length(needed: int, most: int, num_slots: int, num_params: int) -> int:
    """Returns the number of tokens that the next program has for each text.

    It is `most`, or less: by a quarter, and a quarter of the rest, as far as each pays.

    Args:
      needed: largest number of tokens that a text in flight looks at; the result is at
        least this.
      most: length in tokens of the longest text.
      num_slots: number of batch slots of the program.
      num_params: number of parameters of the LM.
    """
    length = shorter = most
    while (shorter := shorter * 3 // 4) >= max(needed, SHORT):
        saved = num_slots * (length - shorter) * STEPS_AT_A_LENGTH
        if pays(step_flops(num_params, saved)):
            length = shorter
    return length
