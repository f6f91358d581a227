"""Fingerprint of a language model: its parameters, and the settings in its config."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Fields that change how a model runs, or how long its texts may be, not what it computes.
HOW = ("attention", "max_positions", "remat")


def fingerprint_of(digests: Mapping[str, str], config: Any) -> str:
    """SHA-256 over all tensors and over the settings that change what is computed.

    Settings that have the default of their class are left out, so that a new field does not
    change the fingerprints of older models.

    Args:
      digests: digest of each tensor by its name in the family's table; see
        `Checkpoint.digests`.
      config: config of the family.
    """
    lines = [f"{name} {digest}" for name, digest in sorted(digests.items())]
    values = dataclasses.asdict(config)
    settings = {
        field.name: values[field.name]
        for field in dataclasses.fields(config)
        if field.name not in HOW and getattr(config, field.name) != field.default
    }
    lines.append(json.dumps(settings, sort_keys=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
