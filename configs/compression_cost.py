r"""FLOPs of compressors at Llama-2-7B's shape, and their time at a small one.

  python experiments/compression_cost.py --workdir runs/compression_cost
  python experiments/compression_cost.py --config.clock.shape.hidden_size=4096 \
      --config.clock.shape.intermediate_size=11008 \
      --config.clock.shape.num_attention_heads=32 \
      --config.clock.dtype=bfloat16 --config.clock.num_chunks=8

The second is for an accelerator with 40 GB: it takes the time at the size of Llama-2-7B.

Cost: 2 min 40 s on one core, most of it compiling ICAE's 32 layers at each length.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/compression_cost.py reads."""
    config = config_dict.ConfigDict()
    config.shape = config_dict.create(  # a config.json: Llama-2-7B
        model_type="llama",
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        # Its own window is 4,096; the cost of what is longer is that of a stretched one.
        max_position_embeddings=65_536,
    )
    config.contexts = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
    config.chunk = 512  # tokens at the most, where contexts are cut
    config.num_digests = 128
    config.rank = 128  # of ICAE's adapters
    config.num_steps = 1  # of GradMem, whose cost is proportional to it

    config.clock = config_dict.ConfigDict()
    config.clock.shape = config_dict.create(  # 32 layers, and 7B's proportions
        model_type="llama",
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=32,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )
    config.clock.num_tokens = 512
    config.clock.num_chunks = 1
    config.clock.dtype = "float32"
    config.clock.rounds = 7
    return config
