"""Samples texts from a language model into a file that other commands read as texts.

  python experiments/sample_texts.py [--config configs/sample_texts.py]
      [--config.x.y=value] [--workdir DIR]

It can be stopped at any moment, and the same command resumes it.
"""

from launch import Config, launch, stop_if_told

from memcomp.distributed import say
from memcomp.lm.load import load_lm
from memcomp.lm.sample import SamplingConfig, check_model
from memcomp.runs.cramming import describe
from memcomp.runs.files import RECORDS, claim_workdir
from memcomp.runs.progress import bar_of, of_sampling
from memcomp.runs.sampling import check_sizes, run_sampling
from memcomp.sharding import make_mesh

DEFAULT_WORKDIR = "runs/sample_texts"


def main(config: Config, workdir: str | None) -> None:
    """Samples the texts and writes the files of a run."""
    names = ("seed", "num_tokens", "temperature", "top_p")
    cfg = SamplingConfig(**{name: config[name] for name in names})
    sizes = {name: config[name] for name in ("num_texts", "batch_size")}
    check_sizes(**sizes)
    lm = load_lm(config.lm, dtype=config.dtype, mesh=make_mesh(**config.mesh))
    check_model(lm, cfg)  # raises before the workdir is claimed
    folder = claim_workdir(workdir or DEFAULT_WORKDIR, config.to_dict(), describe(lm))
    with bar_of(config.num_texts, of_sampling, stop_if_told) as report:
        summary = run_sampling(lm, cfg, folder, **sizes, report=report)
    say(
        f"{summary['n']:,} texts of {summary['total_tokens']:,} tokens, "
        f"{summary['num_empty']:,} empty ones left out: "
        f"--config.texts={folder / RECORDS}"
    )


if __name__ == "__main__":
    launch(main, "sample_texts.py", resumable=True)
