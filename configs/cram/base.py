r"""What the configs of experiments/cram.py share.

Texts of the published configs: PG-19, validation split, the first 50 rows of the authors'
1,000 passages (yurakuratov/pg19_valid_1k_chunks on the Hub). arXiv:2502.13063 crams the
second half of each passage, counted in sentences, from its first token on: with
pg19_valid_1k_chunks.csv in DIR, --config.texts=pg19_csv --config.manual_dir=DIR.
arXiv:2607.21231 crams the passage from its start: give --config.texts the .csv itself. A
config crams one length; others are set with --config.cram.num_tokens=(96,), or one number
a text.

Expected cost in a config's docstring is computed, not measured:

  FLOPs = 4 x parameters x (num_tokens + num_memory) x max_steps x num_texts

2 for the forward pass and 2 for the way back to the activations; no gradient of a weight
is taken. Parameters: "parameters" in configs/full_size.json. Attention's own
products are left out, and all texts are taken to need all steps, which the short ones do
not. Hours are on one NVIDIA H100 at 40% of its dense peak, which is assumed: 989 TFLOP/s
in bfloat16, 495 in float32 (as TF32). `batch_size` is a guess for its 80 GB.
"""

from ml_collections import config_dict


def everything() -> config_dict.ConfigDict:
    """All fields, with what they are where a config says nothing else."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.protocol = "strict"  # "strict" or "reference"
    config.lm = "builtin"  # folder, Hub id or "builtin"
    config.dtype = "float32"  # "bfloat16" and "float16" too
    # What the backward pass keeps of the LM's layers: "none" keeps all, "dots" the results
    # of matrix products, "full" nothing.
    config.remat = "none"
    # "plain", "blockwise", "cudnn" (GPU), "splash" (TPU), or "auto" by the devices.
    config.attention = "plain"
    # Devices; -1 for all that the others leave. data and fsdp cut batches, fsdp and
    # tensor cut weights.
    config.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    config.slice = "v5e:2x4"  # TPUs that experiments/compile_check.py compiles for

    # File, folder, "-", or a name of memcomp/data/sources.py: "builtin", "random_words",
    # "uniform_tokens", "pg19", "pg19_csv", "fanfics_csv".
    config.texts = config_dict.placeholder(str)
    config.num_texts = 16  # the first so many; -1: all
    config.field = "text"  # of a .jsonl or .csv row
    config.passages = 1  # texts that each file is cut into
    config.vocabulary = ""  # word list of "random_words"
    config.manual_dir = ""  # of files that cannot be downloaded; the error says which

    # Passed as CramConfig(**config.cram): an unknown key is an error.
    config.cram = config_dict.create(
        num_tokens=(32,),
        num_memory=1,
        memory="vectors",  # way of writing: docs/ways.md
        recipe="default",
        learning_rate=config_dict.placeholder(float),  # None: the recipe's
        max_steps=config_dict.placeholder(int),
        patience=config_dict.placeholder(int),
        margin=config_dict.placeholder(float),
        ahead=config_dict.placeholder(int),
        batch_size=16,
        steps_per_chunk=50,
        vocab_chunk=8192,
        token_chunk=256,
    )
    return config


def reference() -> config_dict.ConfigDict:
    """As in arXiv:2502.13063, appendix A and code; a config says LM, dtype and length.

    The first token is given and not scored: BOS where the tokenizer adds one, else the
    first of the text. The authors keep weights in float32 and compute in bfloat16 or
    float32 (`dtype`); here weights have the dtype too. Capacity is the largest length
    with a mean best accuracy of 0.99 or more over 50 texts; of random words, the longest
    of 100 texts of random lengths that reaches it.
    """
    config = everything()
    config.protocol = "reference"
    config.num_texts = 50
    config.cram.recipe = "reference"
    config.cram.batch_size = 50
    config.cram.steps_per_chunk = 100
    return config


def progressive() -> config_dict.ConfigDict:
    """As in arXiv:2607.21231; a config says LM and length.

    Every token is scored, the first one too; bfloat16; one token more once all before it
    are right, at most 1,000 steps for each and 10,000 a text. A text that does not get to
    the end of `num_tokens` leaves its longest exact prefix, the paper's horizon. With
    --config.cram.recipe=low_dim memory is z W + b (`memcomp.cram.recipe`).
    """
    config = everything()
    config.dtype = "bfloat16"
    config.num_texts = 50
    config.cram.recipe = "progressive"
    config.cram.steps_per_chunk = 100
    return config
