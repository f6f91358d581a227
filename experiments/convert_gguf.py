"""Converts a GGUF file to a Hugging Face folder, which `memcomp.load_lm` reads.

  python experiments/convert_gguf.py FILE FOLDER

FOLDER gets config.json, model.safetensors in float32 and the tokenizer's files. It must
not exist, and appears whole or not at all. Needs the extra `gguf`.
"""

from launch import Config, launch

from memcomp.convert.gguf import Converted, convert_gguf
from memcomp.errors import InputError


def main(config: Config, workdir: str | None) -> None:
    """Converts the file and prints what was written."""
    if len(config.paths) != 2 or workdir is not None:
        raise InputError("give a GGUF file and the folder to make, and nothing else")
    file, folder = config.paths
    converted = convert_gguf(file, folder)
    print(f"wrote {folder}: {converted.num_parameters:,} parameters in float32")
    print(of_weights(converted))


def of_weights(converted: Converted) -> str:
    """Returns a sentence about the precision of the weights in the file."""
    average = f"{converted.bits:.1f} bits a parameter on average"
    if converted.quantised_to is None:
        stored = converted.stored or "a type that it does not name"
        return f"The file stored the weights as {stored}, {average}."
    return (
        f"The file's weights are quantised to {converted.quantised_to} bits "
        f"({converted.stored}, {average}): the model is slightly worse than its original."
    )


if __name__ == "__main__":
    launch(main, "convert_gguf.py", positional="paths")
