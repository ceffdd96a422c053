"""Class tables: names, colours, and which classes are things, stuff or void.

Sources: PASTIS: VSainteuf/pastis-benchmark @ 43a0ece (names) with matplotlib's tab20 colours;
S2TSCzCrop: Many98/Crop2Seg @ aee7827 (names and colours).
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

Kind = Literal["thing", "stuff", "void"]
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")


@dataclass(frozen=True)
class SegmentClass:
    """One class of a dataset."""

    id: int
    """Value of the class in label images."""
    name: str
    """Name of the class, unique in its table."""
    colour: str
    """``#rrggbb``."""
    kind: Kind
    """Things are counted, stuff is not; void is neither trained nor scored."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset, indexed by id."""

    name: str
    """Name of the dataset."""
    classes: tuple[SegmentClass, ...]
    """The classes, ids ascending without repeats."""
    boundary: SegmentClass | None = None
    """Line between classes in figures, where a dataset has a colour for it: no label image holds
    it, and no model scores it.
    """

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.classes]
        if ids != sorted(set(ids)):
            raise ValueError(f"class ids of {self.name} must ascend without repeats, found {ids}")
        if self.boundary is not None and self.boundary.id in ids:
            raise ValueError(f"boundary of {self.name} has the id of class {self.boundary.id}")

    def __getitem__(self, class_id: int) -> SegmentClass:
        """Return the class of an id. Raises ``KeyError``, which names the known ids."""
        for entry in self.classes:
            if entry.id == class_id:
                return entry
        raise KeyError(
            f"class {class_id} is not in {self.name}: {[entry.id for entry in self.classes]}"
        )

    def ids(self, kind: Kind) -> tuple[int, ...]:
        """Return the ids of the classes of one kind, ascending."""
        return tuple(entry.id for entry in self.classes if entry.kind == kind)

    @property
    def count(self) -> int:
        """Number of scores of a model for a pixel: the largest id plus one."""
        return self.classes[-1].id + 1

    @property
    def background(self) -> int | None:
        """Id of the first stuff class, which lies between parcels; None without stuff."""
        stuff = self.ids("stuff")
        return stuff[0] if stuff else None

    @property
    def void(self) -> int | None:
        """Id of the first void class; None without one."""
        void = self.ids("void")
        return void[0] if void else None

    def same_classes(self, other: ClassTable) -> bool:
        """Return whether both tables have the same ids and names; colours do not matter."""
        one, two = ([(entry.id, entry.name) for entry in table.classes] for table in (self, other))
        return one == two

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, which ``from_json`` reads."""
        boundary = {} if self.boundary is None else {"boundary": vars(self.boundary)}
        return {"name": self.name, "classes": [vars(entry) for entry in self.classes], **boundary}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> ClassTable:
        """Return the table of a dictionary that ``to_json`` made."""
        boundary = SegmentClass(**table["boundary"]) if "boundary" in table else None
        return cls(
            table["name"], tuple(SegmentClass(**entry) for entry in table["classes"]), boundary
        )


def _table(
    name: str,
    rows: list[tuple[str, str]],
    stuff: set[int],
    void: set[int],
    boundary: SegmentClass | None = None,
) -> ClassTable:
    def kind(class_id: int) -> Kind:
        return "stuff" if class_id in stuff else "void" if class_id in void else "thing"

    return ClassTable(
        name,
        tuple(SegmentClass(i, label, colour, kind(i)) for i, (label, colour) in enumerate(rows)),
        boundary,
    )


PASTIS = _table(
    "PASTIS",
    [
        ("background", "#000000"),
        ("meadow", "#aec7e8"),
        ("soft winter wheat", "#ff7f0e"),
        ("corn", "#ffbb78"),
        ("winter barley", "#2ca02c"),
        ("winter rapeseed", "#98df8a"),
        ("spring barley", "#d62728"),
        ("sunflower", "#ff9896"),
        ("grapevine", "#9467bd"),
        ("beet", "#c5b0d5"),
        ("winter triticale", "#8c564b"),
        ("winter durum wheat", "#c49c94"),
        ("fruits, vegetables, flowers", "#e377c2"),
        ("potatoes", "#f7b6d2"),
        ("leguminous fodder", "#7f7f7f"),
        ("soybeans", "#c7c7c7"),
        ("orchard", "#bcbd22"),
        ("mixed cereal", "#dbdb8d"),
        ("sorghum", "#17becf"),
        ("void", "#ffffff"),
    ],
    stuff={0},
    void={19},
)

S2TSCZCROP = _table(
    "S2TSCzCrop",
    [
        ("background", "#000000"),
        ("permanent grassland", "#a0db8e"),
        ("annual fruit and vegetable", "#cc5500"),
        ("summer cereals", "#e9de89"),
        ("winter cereals", "#f4ecb1"),
        ("rapeseed", "#dec928"),
        ("maize", "#f0a274"),
        ("annual forage crops", "#556b2f"),
        ("sugar beet", "#94861b"),
        ("flax and hemp", "#767ee1"),
        ("permanent fruit", "#7d0015"),
        ("hopyards", "#9299a9"),
        ("vineyards", "#dea7b0"),
        ("other crops", "#ff0093"),
        ("not classified", "#c0d8ed"),
    ],
    stuff={0},
    void={14},
    boundary=SegmentClass(15, "boundary", "#ffffff", "void"),
)


def plain_code(value: object) -> str:
    """Return a crop code, or a name of a class, as text by which it is compared; empty for none.

    Whole numbers are the same however they are written, and so are accents; spaces around and
    between words do not count.

    >>> [plain_code(value) for value in (110.0, "0110", " 110.00 ", None, float("nan"), "<NA>")]
    ['110', '110', '110', '', '', '']
    >>> plain_code("Mai\u0308s") == plain_code(" Ma\u00efs")
    True
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, Real) and not isinstance(value, Integral):  # also floats of numpy
        if math.isnan(value):
            return ""
        value = f"{value:.0f}" if float(value).is_integer() else value
    text = " ".join(unicodedata.normalize("NFC", str(value)).split())
    if _WHOLE_NUMBER.fullmatch(text):
        sign = "-" if text[0] == "-" else ""
        digits = text.split(".")[0].lstrip("+-").lstrip("0")
        return sign + digits if digits else "0"
    return "" if text in ("<NA>", "NaT") else text
