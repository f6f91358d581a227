"""Makes tables, figures and one HTML page from run folders.

  python experiments/report.py FOLDER... [--workdir OUT]

Nothing in the folders is changed. See configs/report.py for the files that it writes.
"""

from launch import Config, launch

from memcomp.ranges import check_count
from memcomp.report.write import write_report

DEFAULT_WORKDIR = "runs/report"


def main(config: Config, workdir: str | None) -> None:
    """Writes the files of a report."""
    check_count("max_texts", config.max_texts, 0)
    written = write_report(
        config.folders,
        workdir or DEFAULT_WORKDIR,
        max_texts=config.max_texts,
        say=print,
    )
    page, tables, figures = (
        written[0],
        *(
            sum(path.parent.name == folder and path.suffix == suffix for path in written)
            for folder, suffix in (("tables", ".md"), ("figures", ".png"))
        ),
    )
    print(f"{tables} tables, {figures} figures; open {page}")


if __name__ == "__main__":
    launch(main, "report.py", positional="folders")
