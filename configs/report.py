r"""Tables, figures and one HTML page from run folders.

  python experiments/report.py FOLDER... [--workdir OUT] [--config.max_texts=300]

A folder is a run or has runs below it; nothing there is changed. Without one, the runs
below runs/ are read. OUT, by default runs/report, gets report.html, which holds
everything, and tables/ and figures/. Cost on one CPU core: seconds.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/report.py reads."""
    config = config_dict.ConfigDict()
    config.folders = ("runs",)  # what stands on the command line comes here
    config.max_texts = 300  # that the page shows token by token
    return config
