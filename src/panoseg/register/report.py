"""The report of a dataset made from a register: counts as JSON and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from panoseg.register.parcels import Findings, Register
from panoseg.register.patches import FinishedPatch, WrittenLayout
from panoseg.register.plan import Plan


@dataclass(frozen=True)
class Report:
    """Counts of a dataset; the names of the fields are keys of report.json."""

    findings: Findings
    """Counts of the rows of the register."""
    squares: int
    """Squares of the cubes' land."""
    bare: int
    """Squares with too little cover."""
    shared: int
    """Patches left out because they share land with a patch in another block."""
    dim: int
    """Patches left out because they have too few clear dates."""
    without_pixel: int
    """Parcels in squares without a pixel."""
    outside: int
    """Parcels in no square."""
    contested: int
    """Pixels that several parcels cover."""
    divided: int
    """Parcels in patches of several folds; void in all but one."""
    block_m: float
    """Side of the blocks of land in metres."""
    part: str
    """What parts are called: fold or set."""
    parts: dict[str, dict[str, Any]]
    """Of each fold or set: patches, parcels, and pixels by class."""
    cubes: tuple[tuple[str, int], ...]
    """Path and harvest year of each cube."""

    @property
    def patches(self) -> int:
        """Number of patches."""
        return sum(found["patches"] for found in self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as lines of text; counts of 0 are left out."""
        found = self.findings
        unknown = ", ".join(
            f"{code} ({rows})" for code, rows in list(found.unknown_codes.items())[:8]
        )
        notes = (
            (found.rows, "rows of the register near the cubes"),
            (found.without_area, "rows without area, left out"),
            (found.elsewhere + self.outside, "parcels outside of all patches"),
            (found.mended, "outlines that cross themselves, repaired"),
            (found.duplicates, "rows that repeat the outline of another, left out"),
            (found.contradictions, "outlines with several classes, void"),
            (
                sum(found.unknown_codes.values()),
                f"parcels whose code the table lacks, void: code {unknown}",
            ),
            (found.without_code, "parcels without a code, void"),
            (found.thin, "parcels thinner than a pixel, void"),
            (self.without_pixel, "parcels without a pixel, too small or hidden by smaller ones"),
            (
                found.overlaps,
                f"pairs of parcels that overlap, on {found.overlap_ha:g} ha; the smaller is on top",
            ),
            (self.contested, "pixels that several parcels cover"),
            (self.squares, "squares of the cubes' land"),
            (self.bare, "of them with too little of known crops, left out"),
            (
                self.shared,
                "of them on ground that several cubes show, across two blocks of land, left out",
            ),
            (self.dim, "of them with too few clear dates, left out"),
            (
                self.divided,
                (
                    f"parcels that lie in several {self.part}s: each counts in one and is void in"
                    " the others"
                ),
            ),
        )
        width = max(len(str(count)) for count, _ in notes)
        parts = [
            f"{self.part} {name}: {of['patches']} patches, {of['parcels']} parcels,"
            f" {sum(of['pixels'].values())} pixels of them"
            for name, of in self.parts.items()
        ]
        return [*(f"{count:>{width}} {text}" for count, text in notes if count), *parts]


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """What the labels of each fold hold."""

    pixels_FK: np.ndarray
    """int64: pixels of each class in each fold."""
    parcels_F: np.ndarray
    """int64: parcels with a crop in each fold."""
    divided: int
    """Parcels in patches of several folds."""


def report_of(
    layout: WrittenLayout,
    register: Register,
    plan: Plan,
    patches: Sequence[FinishedPatch],
    counts: LabelCounts,
    block_m: float,
    cubes: Sequence[tuple[str, int]],
) -> Report:
    """Return the report of a dataset whose patches are finished."""
    parts = {}
    for number, part in enumerate(layout.parts):
        members = [patch for patch in patches if patch.part == part]
        pixels = {
            entry.name: int(counts.pixels_FK[number, entry.id])
            for entry in layout.classes.classes
            if entry.kind == "thing" and counts.pixels_FK[number, entry.id]
        }
        parts[str(part)] = {
            "patches": len(members),
            "parcels": int(counts.parcels_F[number]),
            "pixels": pixels,
        }
    return Report(
        register.findings,
        plan.squares,
        plan.bare,
        plan.shared,
        len(plan.patches) - len(patches),
        plan.without_pixel,
        plan.outside,
        plan.contested,
        counts.divided,
        block_m,
        layout.part,
        parts,
        tuple(cubes),
    )
