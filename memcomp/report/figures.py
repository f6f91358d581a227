"""The figures: one function each, named in FIGURES.

To add one, write a function from a Section to a Drawn, or to None where the section has
nothing for it, and give it a line in FIGURES.
"""

from collections.abc import Callable

from memcomp.report.figures_capacity import accuracy_over_length, figure_1, figure_5
from memcomp.report.figures_entropy import figure_3_6
from memcomp.report.figures_geometry import (
    figure_7,
    figure_8,
    norms,
    scales,
    trajectories,
)
from memcomp.report.figures_horizons import horizons, horizons_by_recipe
from memcomp.report.figures_scaling import figure_4, horizons_over_vectors
from memcomp.report.figures_use import (
    attention_by_layer,
    contexts,
    knockout_by_layer,
    use_of_memory,
)
from memcomp.report.section import Section
from memcomp.report.style import Drawn

FIGURES: dict[str, Callable[[Section], Drawn | None]] = {
    "figure_1": figure_1,
    "figure_3_6": figure_3_6,
    "horizons": horizons,
    "horizons_by_recipe": horizons_by_recipe,
    "horizons_over_vectors": horizons_over_vectors,
    "accuracy_over_length": accuracy_over_length,
    "figure_4": figure_4,
    "figure_5": figure_5,
    "figure_7": figure_7,
    "figure_8": figure_8,
    "attention_by_layer": attention_by_layer,
    "knockout_by_layer": knockout_by_layer,
    "use_of_memory": use_of_memory,
    "contexts": contexts,
    "norms": norms,
    "scales": scales,
    "trajectories": trajectories,
}
