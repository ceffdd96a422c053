"""What was found on the way from a register to a dataset: as JSON, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from panoseg.register.forms import FinishedPatch, Form
from panoseg.register.parcels import Findings, Register
from panoseg.register.plan import Plan


@dataclass(frozen=True)
class Report:
    """Counts of a dataset that was made.

    findings: about the rows of the register. squares: places for patches; bare: of them with too
    little cover; shared: on ground of another block of land; dim: with too few dates.
    without_pixel, outside, contested: as of ``Plan``. divided: parcels in patches of several folds,
    void in all but one. block_m: side of the blocks. part: what ``parts`` are called;
    parts: of each name, patches, parcels and pixels by class. cubes: path and harvest year of each.
    """

    findings: Findings
    squares: int
    bare: int
    shared: int
    dim: int
    without_pixel: int
    outside: int
    contested: int
    divided: int
    block_m: float
    part: str
    parts: dict[str, dict[str, Any]]
    cubes: tuple[tuple[str, int], ...]

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return sum(found["patches"] for found in self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for people; what was not found is not mentioned."""
        found = self.findings
        unknown = ", ".join(
            f"{code} ({rows})" for code, rows in list(found.unknown_codes.items())[:8]
        )
        notes = (
            (found.rows, "rows of the register near the cubes"),
            (found.without_area, "rows without area, left out"),
            (found.elsewhere + self.outside, "parcels outside of all patches"),
            (found.mended, "outlines that cross themselves, mended"),
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
            (self.contested, "pixels that several parcels claim"),
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
class Tally:
    """What the labels of each fold hold: pixels_FK of each class, parcels_F with a crop; divided as
    of ``Report``.
    """

    pixels_FK: np.ndarray
    parcels_F: np.ndarray
    divided: int


def report_of(
    form: Form,
    register: Register,
    plan: Plan,
    patches: Sequence[FinishedPatch],
    tally: Tally,
    block_m: float,
    cubes: Sequence[tuple[str, int]],
) -> Report:
    """The report of a dataset whose patches are finished."""
    parts = {}
    for number, part in enumerate(form.parts):
        members = [patch for patch in patches if patch.part == part]
        pixels = {
            entry.name: int(tally.pixels_FK[number, entry.id])
            for entry in form.classes.classes
            if entry.kind == "thing" and tally.pixels_FK[number, entry.id]
        }
        parts[str(part)] = {
            "patches": len(members),
            "parcels": int(tally.parcels_F[number]),
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
        tally.divided,
        block_m,
        form.part,
        parts,
        tuple(cubes),
    )
