"""Class tables: names, colours, and which classes are things, stuff or void.

Sources: PASTIS: VSainteuf/pastis-benchmark @ 43a0ece (names) with matplotlib's tab20 colours;
S2TSCzCrop: Many98/Crop2Seg @ aee7827 (names and colours). Labels of published networks for
photographs: COCO's panoptic categories: cocodataset/panopticapi, panoptic_coco_categories.json;
ADE20K's 100 things and 50 kinds of stuff, and Mapillary Vistas': facebookresearch/Mask2Former @
161be51, mask2former/data/datasets; Cityscapes: mcordts/cityscapesScripts, helpers/labels.py.
"""

from __future__ import annotations

import colorsys
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
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


_COCO_THINGS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,"
    " fire hydrant, , stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,"
    " bear, zebra, giraffe, , backpack, umbrella, , , handbag, tie, suitcase, frisbee, skis,"
    " snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,"
    " tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,"
    " orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, ,"
    " dining table, , , toilet, , tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,"
    " toaster, sink, refrigerator, , book, clock, vase, scissors, teddy bear, hair drier,"
    " toothbrush"
)
"""In the order of their ids, from 1 on; ids without a name are not used."""
_COCO_STUFF = (
    "92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff,"
    " 118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff,"
    " 138 net, 141 pillow, 144 platform, 145 playingfield, 147 railroad, 148 river, 149 road,"
    " 151 roof, 154 sand, 155 sea, 156 shelf, 159 snow, 161 stairs, 166 tent, 168 towel,"
    " 171 wall-brick, 175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other,"
    " 180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged, 186 ceiling-merged,"
    " 187 sky-other-merged, 188 cabinet-merged, 189 table-merged, 190 floor-other-merged,"
    " 191 pavement-merged, 192 mountain-merged, 193 grass-merged, 194 dirt-merged,"
    " 195 paper-merged, 196 food-other-merged, 197 building-other-merged, 198 rock-merged,"
    " 199 wall-other-merged, 200 rug-merged"
)
_ADE20K = (
    "wall*, building*, sky*, floor*, tree*, ceiling*, road*, bed, windowpane, grass*, cabinet,"
    " sidewalk*, person, earth*, door, table, mountain*, plant*, curtain, chair, car, water*,"
    " painting, sofa, shelf, house*, sea*, mirror, rug*, field*, armchair, seat, fence, desk,"
    " rock*, wardrobe, lamp, bathtub, railing, cushion, base*, box, column, signboard,"
    " chest of drawers,"
    " counter, sand*, sink, skyscraper*, fireplace, refrigerator, grandstand*, path*, stairs,"
    " runway*, case, pool table, pillow, screen door, stairway*, river*, bridge*, bookcase, blind*,"
    " coffee table, toilet, flower, book, hill*, bench, countertop, stove, palm, kitchen island,"
    " computer, swivel chair, boat, bar*, arcade machine, hovel*, bus, towel, light, truck, tower*,"
    " chandelier, awning, streetlight, booth, television, airplane, dirt track*, apparel, pole,"
    " land*, bannister, escalator*, ottoman, bottle, buffet*, poster*, stage*, van, ship, fountain,"
    " conveyer belt*, canopy*, washer, plaything, swimming pool*, stool, barrel, basket,"
    " waterfall*, tent*, bag, minibike, cradle*, oven, ball, food, step, tank*, trade name,"
    " microwave, pot, animal, bicycle, lake*, dishwasher, screen, blanket*, sculpture, hood,"
    " sconce, vase, traffic light, tray, ashcan, fan, pier*, crt screen*, plate, monitor,"
    " bulletin board,"
    " shower*, radiator, glass, clock, flag"
)
"""In the order of their labels; stuff has a star. Only the first of several names."""
_CITYSCAPES = (
    "road*, sidewalk*, building*, wall*, fence*, pole*, traffic light*, traffic sign*, vegetation*,"
    " terrain*, sky*, person, rider, car, truck, bus, train, motorcycle, bicycle"
)
_MAPILLARY = (
    "Bird, Ground Animal, Curb*, Fence*, Guard Rail*, Barrier*, Wall*, Bike Lane*,"
    " Crosswalk - Plain, Curb Cut*, Parking*, Pedestrian Area*, Rail Track*, Road*, Service Lane*,"
    " Sidewalk*, Bridge*, Building*, Tunnel*, Person, Bicyclist, Motorcyclist, Other Rider,"
    " Lane Marking - Crosswalk, Lane Marking - General*, Mountain*, Sand*, Sky*, Snow*, Terrain*,"
    " Vegetation*, Water*, Banner, Bench, Bike Rack, Billboard, Catch Basin, CCTV Camera,"
    " Fire Hydrant, Junction Box, Mailbox, Manhole, Phone Booth, Pothole*, Street Light, Pole,"
    " Traffic Sign Frame, Utility Pole, Traffic Light, Traffic Sign (Back), Traffic Sign (Front),"
    " Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails*, Other Vehicle, Trailer,"
    " Truck, Wheeled Slow, Car Mount*, Ego Vehicle*"
)
_OTHER_NAMES = {
    "window": "windowpane",
    "tub": "bathtub",
    "rail": "railing",
    "street lamp": "streetlight",
    "tv": "television",
    "tv monitor": "television",
    "plane": "airplane",
    "clothes": "apparel",
    "pool": "swimming pool",
    "falls": "waterfall",
    "trash can": "ashcan",
}
"""Names that some checkpoints have for classes of ADE20K."""
_ENOUGH = 0.8
"""The share of a checkpoint's labels that has to be in a known set."""
_GENERIC = re.compile(r"label[_ ]?\d*|n/?a|unused|none|background|void|", re.IGNORECASE)
"""Names of labels that mean no class."""


@dataclass(frozen=True)
class _Entry:
    id: int
    """Value in label images."""
    name: str
    """Name."""
    kind: Kind
    """Thing or stuff."""


def _starred(text: str, first: int) -> tuple[_Entry, ...]:
    names = (name.strip() for name in text.split(", "))
    return tuple(
        _Entry(number, name.rstrip("*"), "stuff" if name.endswith("*") else "thing")
        for number, name in enumerate(names, first)
    )


def _coco() -> tuple[_Entry, ...]:
    names = (name.strip() for name in _COCO_THINGS.split(","))
    things = [_Entry(id_, name, "thing") for id_, name in enumerate(names, 1) if name]
    rows = (row.strip().split(" ", 1) for row in _COCO_STUFF.split(","))
    return (*things, *(_Entry(int(id_), name, "stuff") for id_, name in rows))


SETS: dict[str, tuple[_Entry, ...]] = {
    "COCO": _coco(),
    "ADE20K": _starred(_ADE20K, 0),
    "Cityscapes": _starred(_CITYSCAPES, 0),
    "Mapillary Vistas": _starred(_MAPILLARY, 1),
}
"""The classes of each dataset, by id."""


def table_of_labels(labels: Sequence[str]) -> tuple[ClassTable, tuple[int, ...]]:
    """Return the classes of a network's labels, and the place of each label among them.

    Labels of COCO, ADE20K, Cityscapes and Mapillary Vistas are recognised by their names, or by
    their number where they have none; the table then has the ids, names and kinds of the dataset.
    Other labels keep their names, have ids from 1, and are things, unless all known datasets that
    have such a class say that it is stuff.

    Args:
        labels: Name of each label, in order.

    Returns:
        The table; and for each label the place of its class among the classes of the table, -1
        where it has no class.

    >>> table, places = table_of_labels(["apple", "LABEL_1", "sky", "weed"])
    >>> [(entry.id, entry.name, entry.kind) for entry in table.classes], places
    ([(1, 'apple', 'thing'), (2, 'sky', 'stuff'), (3, 'weed', 'thing')], (0, -1, 1, 2))
    """
    names = [" ".join(label.split()) for label in labels]
    named = [name for name in names if not _GENERIC.fullmatch(name)]
    known = _recognised(named, len(names))
    if known is None:
        entries = _own(names)
        ids: list[int | None] = [None if entry is None else entry.id for entry in entries]
        classes, title = [entry for entry in entries if entry], "own labels"
    else:
        title, classes = known, list(SETS[known])
        by_name = {_plain(entry.name): entry.id for entry in classes}
        in_order = [entry.id for entry in classes]
        ids = [by_name.get(_plain(name)) for name in names] if named else list(in_order)
        classes = [entry for entry in classes if entry.id in set(ids)]
    places = {entry.id: place for place, entry in enumerate(classes)}
    table = ClassTable(
        title,
        tuple(
            SegmentClass(entry.id, entry.name, _colour(place / len(classes)), entry.kind)
            for place, entry in enumerate(classes)
        ),
    )
    return table, tuple(-1 if id_ is None else places[id_] for id_ in ids)


def _recognised(named: Sequence[str], count: int) -> str | None:
    """Return the dataset whose classes the labels are; None for an unknown one."""
    if not named:
        found = [title for title, entries in SETS.items() if len(entries) == count]
        return found[0] if found else None
    plain = {_plain(name) for name in named}
    shares = {
        title: len(plain & {_plain(entry.name) for entry in entries}) / len(plain)
        for title, entries in SETS.items()
        # A few labels that many datasets have belong to none of them.
        if len(plain) >= len(entries) / 2
    }
    best = max(shares, key=shares.__getitem__, default=None)
    return best if best is not None and shares[best] >= _ENOUGH else None


def _own(names: Sequence[str]) -> list[_Entry | None]:
    """Return the class of each label of an unknown dataset."""
    found: list[_Entry | None] = []
    seen: Counter[str] = Counter()
    for name in names:
        if _GENERIC.fullmatch(name) and any(not _GENERIC.fullmatch(other) for other in names):
            found.append(None)
            continue
        name = name[:100] or f"class {len(found)}"
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        id_ = 1 + sum(entry is not None for entry in found)
        found.append(_Entry(id_, unique, _kind_of_name(name)))
    return found


def _kind_of_name(name: str) -> Kind:
    kinds = {
        entry.kind
        for entries in SETS.values()
        for entry in entries
        if _plain(name) in (_plain(entry.name), _plain(entry.name.split("-")[0]))
    }
    return "stuff" if kinds == {"stuff"} else "thing"


def _plain(name: str) -> str:
    """Return a name as it is compared: the first of several, in small letters."""
    first = plain_code(name.split(",")[0].replace("_", " ")).lower()
    return _OTHER_NAMES.get(first, first)


def _colour(share: float) -> str:
    # Neighbours have colours far from each other.
    hue = (share * 0.61803398875 * 89) % 1
    values = colorsys.hsv_to_rgb(hue, 0.65 + 0.2 * (share % 0.5), 0.95)
    return "#" + "".join(f"{round(255 * value):02x}" for value in values)
