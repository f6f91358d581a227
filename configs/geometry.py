r"""Where the vectors of a text lie, and what lies between them.

  python experiments/geometry.py                    # the built-in LM and passages
  python experiments/geometry.py --config.num_texts=8 --config.study.num_restarts=16 \
      --config.study.pairs_per_text=8 --workdir runs/geometry_more
  python experiments/report.py runs/geometry        # the figures

Cost with no flags: under a minute of a CPU.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/geometry.py reads."""
    config = base.everything()
    config.texts = "builtin"
    config.num_texts = 4
    # Only texts that come back exactly are studied: short enough for most starts to.
    config.cram.num_tokens = (4,)
    config.cram.batch_size = 32
    config.cram.steps_per_chunk = 25

    # Passed as GeometryConfig(**config.study), with `curve` as CurveConfig(**config.curve).
    config.study = config_dict.create(
        num_restarts=6,
        most_between=10_000,
        pairs_per_text=2,
        num_thetas=21,
        scales=(0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0),
        num_vocabulary=500,
        trajectory_texts=3,
        trajectory_restarts=6,
        trajectory_every=5,
    )
    config.curve = config_dict.create(steps=100, learning_rate=0.02, points=4)
    return config
