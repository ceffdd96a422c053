"""When the satellite passes: an irregular acquisition calendar.

Days are counted from 1 September of the year before the harvest, so that a day means the same in every year.
"""

from __future__ import annotations

import datetime

import numpy as np

SEASON_DAYS = 426
"""1 September to 31 October of the next year."""
_REVISIT_DAYS = 5
_WINTER = (75, 190)


def season_start(harvest_year: int) -> datetime.date:
    """Day 0 of the season that is harvested in a year."""
    return datetime.date(harvest_year - 1, 9, 1)


def acquisition_days(rng: np.random.Generator, count: int) -> np.ndarray:
    """Days of ``count`` acquisitions, int64, ascending, without repeats.

    Passes come every five days; where more are asked for than one orbit gives, a second orbit overlaps. Passes are lost at
    random, in runs, and more often in winter, because products that are wholly clouded are not kept.
    """
    phase = int(rng.integers(_REVISIT_DAYS))
    passes = np.arange(phase, SEASON_DAYS, _REVISIT_DAYS)
    if count > 0.75 * passes.size or rng.random() < 0.25:
        second = np.arange((phase + rng.choice([2, 3])) % _REVISIT_DAYS, SEASON_DAYS, _REVISIT_DAYS)
        passes = np.unique(np.concatenate([passes, second]))
    winter = (passes > _WINTER[0]) & (passes < _WINTER[1])
    weather = np.convolve(rng.standard_normal(passes.size + 2), [0.4, 0.6, 0.4], mode="valid")
    loss = weather + rng.uniform(0.2, 1.0) * winter + 0.5 * rng.standard_normal(passes.size)
    return np.sort(passes[np.argsort(loss)[:count]])
