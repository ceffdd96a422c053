"""A result that somebody looks at: what all parts of its page need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from panoseg.app.jobs import JobView
from panoseg.app.pages.frame import Visit
from panoseg.app.result_map import ResultMap
from panoseg.app.service import Service


@dataclass(frozen=True)
class Shown:
    """A result that somebody looks at.

    address: where its API is. visit: its owner's; None where a link was shared, which may only read.
    """

    service: Service
    job: JobView
    address: str
    visit: Visit | None
    result: ResultMap
    description: dict[str, Any]
