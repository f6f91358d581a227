"""What the configs of experiments/icformer.py share."""

from ml_collections import config_dict


def everything() -> config_dict.ConfigDict:
    """All fields, with what they are where a config says nothing else."""
    config = config_dict.ConfigDict()
    # "pretrain", "finetune", "generate", "evaluate", or "both": pretrain, then evaluate.
    config.stage = "pretrain"
    config.seed = 0
    config.lm = "builtin"  # folder, Hub id or "builtin"
    config.dtype = "auto"  # float32 on a CPU, else bfloat16
    # What the backward pass keeps of the LM's layers: "none" keeps all, "dots" the results
    # of matrix products, "full" nothing.
    config.remat = "none"
    # "plain", "blockwise", "cudnn" (GPU), "splash" (TPU), or "auto" by the devices.
    config.attention = "plain"
    # A run's folder, a compressor.safetensors or what IC-Former's authors saved:
    # fine-tuning begins with it, and pretraining where it is given; the last two stages
    # use it. "fresh": random weights.
    config.start = ""
    # Devices; -1 for all that the others leave. data and fsdp cut batches, fsdp and
    # tensor cut weights.
    config.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    config.slice = "v5e:1x1"  # TPUs that experiments/compile_check.py compiles for

    config.compressor = "icformer"  # "icformer", "icae", "gradmem" or "pooling"
    # Passed as ICFormerConfig(**config.icformer): an unknown key is an error. None: as
    # the LM has it.
    config.icformer = config_dict.create(
        num_digests=128,
        num_layers=3,
        num_heads=config_dict.placeholder(int),
        num_kv_heads=config_dict.placeholder(int),
        head_dim=config_dict.placeholder(int),
        d_mlp=config_dict.placeholder(int),
        rope_theta=10_000.0,
        norm_eps=1e-6,
        digest_init="zeros",  # or "normal"
        spread_positions=False,
    )
    # Passed as ICAEConfig(**config.icae).
    config.icae = config_dict.create(
        num_digests=128, rank=128, alpha=32.0, slot_init="normal", bidirectional=False
    )
    # Passed as GradMemConfig(**config.gradmem). Train it with dtype float32: bfloat16 loses
    # the gradient after two steps and more (docs/icformer.md).
    config.gradmem = config_dict.create(
        num_digests=8,
        num_steps=2,
        rate=0.08,
        num_second_order=config_dict.placeholder(int),  # None: all steps
        projection=False,
        start_std=0.02,
    )

    # Passed as PoolingConfig(**config.pooling).
    config.pooling = config_dict.create(num_digests=128)

    # Documents: a .jsonl file or a folder of them, whose duplicates are left out, or
    # what memcomp.data.training_texts reads. Stage generate: what memcomp.data.texts reads.
    config.texts = "python/train"
    config.valid = "python/valid"  # "" for none
    config.field = "text"  # of a .jsonl row
    config.special_tokens = False  # whether documents get the tokenizer's BOS
    config.manual_dir = ""  # of PwC_train.jsonl and PwC_test.jsonl
    config.filters = config_dict.placeholder(tuple)  # of memcomp/data/pwc.py

    config.context = config_dict.create(
        length=512,
        min_length=config_dict.placeholder(int),  # None: all are as long as they can
        max_chunk=config_dict.placeholder(int),  # None: no chunks
        by_tokens=False,  # long documents give as many windows as they have
    )
    config.objective = config_dict.create(
        average="token",  # or "sequence"
        continuation=0,  # most tokens
        continuation_ratio=0.0,  # part of the rows that go on with the text
        min_continuation=1,
        num_given=0,
    )
    config.question = config_dict.create(
        template="published",  # "published", "plain" or "chat"
        prompt=64,  # most tokens of each
        answer=128,
    )
    # Passed as TrainConfig(**config.train), with the schedule's options as pairs.
    config.train = config_dict.create(
        num_steps=9_300,
        batch_size=16,
        accumulation=1,
        schedule="constant_schedule",  # any of optax
        schedule_options=config_dict.create(value=1e-4),
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        max_grad_norm=2.0,
    )
    config.log_every = 10
    config.save_every = 500
    config.evaluate_every = 500
    config.num_valid = 64  # rows held out
    config.decode = config_dict.create(
        num_texts=8,  # free-running, at each evaluation; or in stage generate
        num_tokens=128,  # stage generate
        ask="reproduce",  # "reproduce", "continue", or a question
        temperature=0.0,
        top_p=1.0,
    )
    config.evaluate = config_dict.create(
        study="reconstruction",  # or "answers"
        num_texts=64,  # None: all questions of the test set
        lengths=(128, 256, 512),
        kinds=("normal", "reversed", "patterned", "random"),
        beside=(),  # further compressors for this LM, of any kind, named as in `start`
        # Also rows of baselines without weights: "truncation", "mean pooling".
        baselines=(),
        # Also rows of as many vectors, crammed for each context.
        cramming=False,
        # And crammed beginning with each compressor's vectors; study reconstruction.
        cramming_starts=False,
        # Passed as CramConfig(**config.evaluate.cram). None: as the recipe has it.
        cram=config_dict.create(
            memory="vectors",  # as many as the compressor makes, or "cache"
            num_memory=1,  # positions of a cache
            recipe="default",
            learning_rate=config_dict.placeholder(float),
            patience=config_dict.placeholder(int),
            ahead=config_dict.placeholder(int),
            batch_size=16,
        ),
    )
    return config
