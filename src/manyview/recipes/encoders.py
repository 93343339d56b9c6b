"""Encoder fields that a recipe's options override."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from manyview.errors import UserError


def encoder_fields(assignments: Sequence[str]) -> dict[str, Any]:
    """key=value texts as a dictionary, values read as YAML. Raises UserError for one without an equals sign."""
    fields: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"method.encoder takes key=value, got {text!r}")
        fields[key] = yaml.safe_load(value)
    return fields
