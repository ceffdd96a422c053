"""The calendar: the season of a harvest year and the years that satellite images may have.

No heavy import here: options and configurations use these constants, and ``--help`` stays quick.
"""

from __future__ import annotations

from datetime import date, timedelta

from panoseg.errors import ConfigError

# Years beyond these are mistakes in metadata; Python's calendar ends in 9999 and NumPy's in 2262.
FIRST_YEAR, LAST_YEAR = 1985, 2200

REFERENCE_DATE = "2018-09-01"
"""Day 0 of the seasons of PASTIS and of networks trained on it, unless options say otherwise."""

SEASON_START = (9, 1)
"""Month and day of day 0 of a season, in the year before the harvest."""

# A season goes on this long after the anniversary of its first day. Counted from the anniversary
# and not from day 0, so that 29 February makes a season longer and does not move its end.
_DAYS_AFTER_ANNIVERSARY = 60


def season_span(year: int, start: tuple[int, int] = SEASON_START) -> tuple[date, date]:
    """Return the first and the last day (both inclusive) of the season of a harvest year.

    A season that starts on 1 September ends on 31 October of the harvest year, in leap years too.

    >>> season_span(2020)
    (datetime.date(2019, 9, 1), datetime.date(2020, 10, 31))

    Args:
        year: Harvest year.
        start: Month and day of day 0, in the year before the harvest; not 29 February.

    Raises:
        ConfigError: There are no satellite images of that year.
    """
    if not FIRST_YEAR < year < LAST_YEAR:
        raise ConfigError(
            f"Season {year} is not possible: give a harvest year from {FIRST_YEAR + 1} to"
            f" {LAST_YEAR - 1}."
        )
    first = date(year - 1, *start)
    return first, season_end(first)


def season_end(first: date) -> date:
    """Return the last day of the season whose day 0 is ``first`` (not a 29 February)."""
    return first.replace(year=first.year + 1) + timedelta(days=_DAYS_AFTER_ANNIVERSARY)
