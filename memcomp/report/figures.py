"""The figures of a report, by name.

To add one, write a function from a Section to a Drawn, or to None if the section has no
data for it, and add it to FIGURES.
"""

from collections.abc import Callable

from memcomp.report import (
    figures_capacity,
    figures_entropy,
    figures_geometry,
    figures_growth,
    figures_horizons,
    figures_scaling,
    figures_use,
)
from memcomp.report.section import Section
from memcomp.report.style import Drawn

FIGURES: dict[str, Callable[[Section], Drawn | None]] = {
    "figure_1": figures_capacity.figure_1,
    "figure_3_6": figures_entropy.figure_3_6,
    "horizons": figures_horizons.horizons,
    "horizons_by_recipe": figures_horizons.horizons_by_recipe,
    "horizons_over_cost": figures_growth.horizons_over_cost,
    "horizons_over_vectors": figures_scaling.horizons_over_vectors,
    "horizons_over_parameters": figures_scaling.horizons_over_parameters,
    "accuracy_over_length": figures_capacity.accuracy_over_length,
    "figure_4": figures_scaling.figure_4,
    "figure_5": figures_capacity.figure_5,
    "figure_7": figures_geometry.figure_7,
    "figure_8": figures_geometry.figure_8,
    "attention_by_layer": figures_use.attention_by_layer,
    "knockout_by_layer": figures_use.knockout_by_layer,
    "use_of_memory": figures_use.use_of_memory,
    "contexts": figures_use.contexts,
    "norms": figures_geometry.norms,
    "scales": figures_geometry.scales,
    "trajectories": figures_geometry.trajectories,
}
