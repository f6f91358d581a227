r"""What experiments/compile_check.py compiles.

  python experiments/compile_check.py
  python experiments/compile_check.py --config configs/compile_check.py:all

The first: three small programs, two minutes on one CPU core. ":all": every config at its
real size on its slice, and some on other slices; 92 minutes on one that other work
shared. Table: docs/compile_table.md.
"""

from ml_collections import config_dict

SOME = (
    "cram/builtin.py",
    "icformer/tiny.py",
    "pretrain/tiny.py",
)
ALL = (
    "cram/builtin.py",
    "cram/pythia_160m.py",
    "cram/pythia_410m.py",
    "cram/pythia_1_4b.py",
    "cram/pythia_2_8b.py",
    "cram/opt_1_3b.py",
    "cram/olmo_1b.py",
    "cram/sheared_llama_1_3b.py",
    "cram/llama_3_2_1b.py",
    "cram/llama_3_2_3b.py",
    "cram/llama_3_1_8b.py",
    "cram/mamba_130m.py",
    "cram/mamba_370m.py",
    "cram/mamba_790m.py",
    "cram/mamba_1_4b.py",
    "cram/progressive_pythia_1_4b.py",
    "cram/low_dim_pythia_1_4b.py",
    "cram/progressive_smollm2_1_7b.py",
    "cram/progressive_gemma_3_4b.py",
    "cram/progressive_llama_3_1_8b.py",
    "cram/smollm2_135m.py",
    "cram/smollm2_360m.py",
    "cram/gemma_3_270m.py",
    "cram/gemma_3_1b.py",
    "cram/progressive_smollm2_135m.py",
    "cram/progressive_smollm2_360m.py",
    "cram/progressive_gemma_3_270m.py",
    "cram/progressive_gemma_3_1b.py",
    "icformer/tiny.py",
    "icformer/builtin.py",
    "icformer/builtin.py:icae,32",
    "icformer/builtin.py:gradmem",
    "icformer/smollm2.py",
    "icformer/llama_2_7b_pretrain.py",
    "icformer/llama_2_7b_finetune.py",
    "pretrain/tiny.py",
    "pretrain/nano.py",
    "pretrain/small.py",
    # The same on other slices.
    "pretrain/small.py slice=v5e:1x1 model.remat=full",
    "icformer/llama_2_7b_pretrain.py slice=v5p:2x2x2",
    "cram/pythia_160m.py slice=v5e:2x4",
    "cram/pythia_160m.py slice=v5p:2x2x2",
    "cram/pythia_160m.py slice=v6e:2x4",
    "cram/llama_3_2_1b.py mesh.data=1 mesh.fsdp=8",
    "cram/llama_3_2_3b.py slice=v5e:8x8 mesh.data=8 mesh.fsdp=8 cram.batch_size=64",
    "cram/llama_3_1_8b.py slice=v5e:2x4 mesh.fsdp=1 mesh.tensor=8",
    "cram/llama_3_1_8b.py slice=v5e:8x8 mesh.data=8 mesh.fsdp=1 mesh.tensor=8",
    # Texts over eight chips by the default recipe, whose optimiser decomposes matrices.
    "cram/builtin.py slice=v5e:2x4",
    # As many texts as there is room for: eight a chip.
    "cram/llama_3_2_1b.py cram.batch_size=64",
    # Other ways of writing; 4,096 tokens into one position of a cache, a text a chip.
    "cram/smollm2_135m.py cram.memory=cache",
    "cram/smollm2_135m.py cram.memory=one_step",
    "cram/llama_3_2_1b.py cram.memory=cache cram.batch_size=8 cram.num_tokens=(4096,) "
    "remat=full attention=splash",
    # Splash attention: heads over all chips, texts over all chips, the default recipe.
    "cram/llama_3_1_8b.py slice=v5e:2x4 mesh.fsdp=1 mesh.tensor=8 attention=splash",
    "cram/llama_3_1_8b.py slice=v5e:2x4 attention=splash remat=dots",
    "cram/llama_3_1_8b.py slice=v6e:2x4 attention=splash cram.recipe=default",
    "cram/progressive_gemma_3_4b.py attention=auto",
    "cram/pythia_1_4b.py attention=auto",
    "icformer/llama_2_7b_pretrain.py attention=splash",
    # One text of 8,192 tokens in 16 vectors: on a chip alone, and over eight.
    "cram/llama_3_2_1b.py slice=v5e:1x1 attention=splash remat=full "
    "cram.num_tokens=(8192,) cram.num_memory=16 cram.batch_size=1",
    "cram/llama_3_1_8b.py slice=v5e:2x4 mesh.fsdp=1 mesh.tensor=8 attention=splash "
    "remat=full cram.num_tokens=(8192,) cram.num_memory=16 cram.batch_size=1",
)


def get_config(what: str = "some") -> config_dict.ConfigDict:
    """Everything that experiments/compile_check.py reads; `what`: "some" or "all"."""
    config = config_dict.ConfigDict()
    # A file under configs/, and fields that are set otherwise: "a.py slice=v5e:8x8".
    config.programs = ALL if what == "all" else SOME
    return config
