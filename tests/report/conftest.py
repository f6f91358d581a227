"""No test of figures leaves one open: matplotlib warns of the twenty-first."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")
