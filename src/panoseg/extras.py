"""Optional dependencies: which group of packages a feature needs, and how to install it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from panoseg.errors import ConfigError

Extra = Literal["app", "cluster", "tensorboard", "s3", "gs", "postgres"]

_MODULES: dict[Extra, tuple[str, ...]] = {
    "app": (
        "nicegui",
        "fastapi",
        "sqlalchemy",
        "rio_tiler",
        "python_multipart",
        "prometheus_client",
        "uvicorn",
        "httpx",
        "cachetools",
    ),
    "cluster": ("distributed",),
    "tensorboard": ("tensorboard",),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "postgres": ("psycopg",),
}


def is_installed(extra: Extra) -> bool:
    """Return whether all packages of an extra can be imported; imports none of them."""
    return all(find_spec(module) is not None for module in _MODULES[extra])


def require(extra: Extra, feature: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: Name of the extra in pyproject.toml.
        feature: What needs it, e.g. ``panoseg app``; the beginning of the error message.

    Raises:
        ConfigError: A package is missing; the message says what to install.
    """
    if not is_installed(extra):
        raise ConfigError(missing(extra, feature))


def missing(extra: Extra, feature: str) -> str:
    """Return the sentence that says which extra a feature needs.

    >>> missing("app", "panoseg app")
    "panoseg app needs the extra 'app': pip install 'panoseg[app]'."
    """
    return f"{feature} needs the extra {extra!r}: pip install 'panoseg[{extra}]'."
