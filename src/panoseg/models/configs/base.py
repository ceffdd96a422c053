"""What the configurations of all networks share."""

from __future__ import annotations

from panoseg.errors import ConfigError


def expect(condition: bool, found: str, expected: str) -> None:
    """Raise ``ConfigError`` unless the condition holds."""
    if not condition:
        raise ConfigError(found, expected, "change the model's options")
