"""Conversion of rotary settings between Hugging Face configs and ours."""

from collections.abc import Mapping
from typing import Any

from memcomp.errors import InputError
from memcomp.nn.rotary import SCALINGS, Rotary


def rotary_from_hf(
    hf: Any, dim: int, parameters: Mapping[str, Any] | None = None
) -> Rotary:
    """Our `Rotary` from the `rope_parameters` of a transformers config.

    Args:
      hf: a transformers config; version 5 fills `rope_parameters` from the older
        `rope_theta` and `rope_scaling` entries of config.json.
      dim: number of dimensions of a head that are rotated.
      parameters: settings to use instead of `hf.rope_parameters`, for families that have
        several.

    Raises:
      InputError: the kind of scaling is unknown.
    """
    # transformers does this again when it makes a model, and only then reads the entry
    # original_max_position_embeddings at the top level of config.json.
    hf.standardize_rope_params()
    given = dict(hf.rope_parameters if parameters is None else parameters)
    scaling = given.get("rope_type", "default")
    if scaling not in SCALINGS:
        raise InputError(
            f"rope scaling {scaling!r} is not known; known are {', '.join(SCALINGS)}"
        )
    theta = float(given["rope_theta"])
    if scaling == "default":
        return Rotary(dim, theta)
    # Only "llama3" gives the length before scaling; "dynamic" uses the model's length.
    original = {
        "llama3": given.get("original_max_position_embeddings"),
        "dynamic": hf.max_position_embeddings,
    }
    return Rotary(
        dim=dim,
        theta=theta,
        scaling=scaling,
        factor=float(given["factor"]),
        low_freq_factor=float(given.get("low_freq_factor", 1.0)),
        high_freq_factor=float(given.get("high_freq_factor", 1.0)),
        original_positions=int(original.get(scaling) or 0),
    )


def rotary_to_hf(rotary: Rotary, theta_name: str = "rope_theta") -> dict[str, Any]:
    """Makes entries of config.json in the form that transformers 4 and 5 both read.

    Args:
      rotary: rotary settings; "dynamic" scaling must start at the model's `max_positions`.
      theta_name: name of the family's entry for `theta`.
    """
    entries: dict[str, Any] = {theta_name: rotary.theta}
    if rotary.scaling != "default":
        scaling: dict[str, Any] = {"rope_type": rotary.scaling, "factor": rotary.factor}
        if rotary.scaling == "llama3":
            scaling["low_freq_factor"] = rotary.low_freq_factor
            scaling["high_freq_factor"] = rotary.high_freq_factor
            scaling["original_max_position_embeddings"] = rotary.original_positions
        entries["rope_scaling"] = scaling
    return entries
