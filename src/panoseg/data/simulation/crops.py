"""The calendar of each crop: when it is sown, grows, flowers, ripens and is cut.

Days since 1 September (0 September, 61 November, 122 January, 181 March, 242 May, 303 July, 365 September), for a mean
season in the north of France. Round figures from general agronomic knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from panoseg.data.simulation.materials import (
    BEET,
    CORN,
    DURUM,
    MIXED_CEREAL,
    POTATOES,
    RAPESEED,
    SORGHUM,
    SOYBEANS,
    SPRING_BARLEY,
    SUNFLOWER,
    TRITICALE,
    WHEAT,
    WINTER_BARLEY,
)


@dataclass(frozen=True)
class AnnualCrop:
    """A crop that is sown and harvested once.

    sown, harvest: days. rise, rise_days: the day of half growth in spring and its logistic width. peak: leaf area index
    (LAI) at its best. ripen, ripen_days: half senescence and its logistic width. winter: LAI that autumn-sown crops carry
    through winter, 0 for those sown in spring. flower, flower_days, flower_strength: middle, width and visible share of
    flowering. spread: standard deviation of a parcel's days. straw: share of ground that straw covers after harvest.
    """

    sown: float
    rise: float
    rise_days: float
    peak: float
    ripen: float
    ripen_days: float
    harvest: float
    winter: float = 0.0
    flower: float = 0.0
    flower_days: float = 1.0
    flower_strength: float = 0.0
    spread: float = 6.0
    straw: float = 0.55


ANNUAL: dict[int, AnnualCrop] = {
    WHEAT: AnnualCrop(52, 214, 13, 5.6, 301, 7, 328, winter=0.7),
    WINTER_BARLEY: AnnualCrop(40, 204, 12, 5.0, 283, 7, 305, winter=1.1),
    TRITICALE: AnnualCrop(45, 207, 12, 5.2, 297, 8, 325, winter=0.9),
    DURUM: AnnualCrop(62, 209, 12, 4.3, 288, 7, 311, winter=0.5),
    MIXED_CEREAL: AnnualCrop(48, 212, 15, 4.4, 295, 11, 320, winter=0.8, spread=10),
    RAPESEED: AnnualCrop(0, 196, 10, 4.6, 290, 9, 318, 2.2, flower=226, flower_days=12, flower_strength=0.75),
    SPRING_BARLEY: AnnualCrop(188, 240, 9, 4.6, 303, 7, 330),
    CORN: AnnualCrop(242, 296, 8, 5.0, 384, 10, 397, spread=9, straw=0.45),
    SUNFLOWER: AnnualCrop(230, 288, 8, 3.8, 350, 8, 372, flower=317, flower_days=8, flower_strength=0.22, straw=0.3),
    BEET: AnnualCrop(207, 276, 9, 5.2, 440, 18, 402, spread=14, straw=0.15),
    POTATOES: AnnualCrop(228, 284, 7, 5.0, 352, 8, 374, flower=305, flower_days=7, flower_strength=0.06, spread=11, straw=0.1),
    SOYBEANS: AnnualCrop(248, 303, 9, 5.2, 373, 6, 392, straw=0.35),
    SORGHUM: AnnualCrop(252, 304, 10, 4.2, 388, 12, 402, spread=9, straw=0.4),
}
