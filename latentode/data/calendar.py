"""What the calendar says of a date: hour of the day, day of the week, season of the year, on the wall clock of the table's zone.

They are known of any time, so that models read them as they read known columns, of observations and of queries alike, and no query table
has to hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentode.data.schema import Schema, blocks
from latentode.data.settings import PERIODS
from latentode.data.tables import Table
from latentode.data.zones import local_clock
from latentode.errors import DataError

_HOUR = 3_600_000_000_000  # nanoseconds
_DAY = 24 * _HOUR
_YEAR = 365.25 * _DAY
MIN_YEARS = 1.5  # of training, for the season: half of it was then seen twice, and is no trend
MIN_SHARE = 0.01  # of the rows, for an hour or a weekday to count: a single slip is no cycle


def calendar_features(time: np.ndarray, periods: Sequence[str], zone: str | None) -> np.ndarray:
    """Give each period as sine and cosine of the share of it that has passed.

    The hour goes on within the hour, the season within the day (leap years are a day longer); the weekday is that of the whole day, so
    that a weekend begins at midnight.

    Args:
        time: int64 nanoseconds since 1970, in UTC where there is a zone, any shape.
        periods: of `PERIODS`.
        zone: name or offset; None: `time` is a wall clock.

    Returns:
        float32 `(*shape, 2 * len(periods))`: sine and cosine of the first period, then of the next.

    >>> (calendar_features(np.asarray([6 * 3_600_000_000_000]), ["hour"], None).round(6) + 0).tolist()
    [[1.0, 0.0]]
    """
    local = local_clock(time.reshape(-1), zone).reshape(time.shape)
    # Shares are taken in float64; as an angle in float32 the largest of a year is right to some seconds.
    passed = np.stack([_PASSED[period](local) for period in periods], axis=-1)
    angle = (2 * np.pi * passed).astype(np.float32)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(*time.shape, 2 * len(periods))


def _weekday(local: np.ndarray) -> np.ndarray:
    """Number the days of the week from Monday, 0; 1970 began on a Thursday."""
    return (local // _DAY + 3) % 7


def _passed_of_year(local: np.ndarray) -> np.ndarray:
    year = local.view("datetime64[ns]").astype("datetime64[Y]")
    # From days on: the first of the year 2262 is beyond the nanoseconds.
    begin, end = ((year + n).astype("datetime64[D]").astype(np.int64) for n in (0, 1))
    day, within = np.divmod(local, _DAY)
    return (day - begin + within / _DAY) / (end - begin)


_PASSED = {
    "hour": lambda local: local % _DAY / _DAY,
    "weekday": lambda local: _weekday(local) / 7,
    "season": _passed_of_year,
}
assert tuple(_PASSED) == PERIODS


@dataclass(frozen=True)
class Stamps:
    """What tells which periods some rows can show; those of the parts of a table add up.

    Attributes:
        per_hour, per_weekday: rows in each hour of the day and on each day of the week, int64 `(24,)` and `(7,)`.
        first, last: earliest and latest time in nanoseconds; the latest is before the earliest where there are no rows.
    """

    per_hour: np.ndarray
    per_weekday: np.ndarray
    first: int
    last: int

    @classmethod
    def none(cls) -> Stamps:
        """Give those of no rows."""
        limits = np.iinfo(np.int64)
        return cls(np.zeros(24, np.int64), np.zeros(7, np.int64), limits.max, limits.min)

    @classmethod
    def of(cls, table: Table, is_seen: np.ndarray) -> Stamps:
        """Count the rows of a table of dates where `is_seen`, bool `(N,)`."""
        found = cls.none()
        for rows in blocks(table.time[:, None], size=1 << 20):
            time = table.time[rows][is_seen[rows]]
            if len(time):
                local = local_clock(time, table.schema.time_zone)
                hours, days = (
                    np.bincount(x, minlength=n) for x, n in ((local % _DAY // _HOUR, 24), (_weekday(local), 7))
                )
                found += cls(hours, days, int(time.min()), int(time.max()))
        return found

    def __add__(self, other: Stamps) -> Stamps:
        return Stamps(
            self.per_hour + other.per_hour,
            self.per_weekday + other.per_weekday,
            min(self.first, other.first),
            max(self.last, other.last),
        )

    def periods(self) -> tuple[str, ...]:
        """Give the periods of which the rows show more than one phase, and the season where they span `MIN_YEARS`."""
        shown = {
            "hour": _is_spread(self.per_hour),
            "weekday": _is_spread(self.per_weekday),
            "season": self.last - self.first > MIN_YEARS * _YEAR,
        }
        return tuple(period for period in PERIODS if shown[period])


def _is_spread(counts: np.ndarray) -> bool:
    return int((counts > MIN_SHARE * counts.sum()).sum()) > 1


def with_calendar(table: Table, calendar: str | Sequence[str], is_seen: np.ndarray) -> Table:
    """Give the table whose schema names the periods that models read.

    Args:
        table: the data.
        calendar: as in `DataSettings`.
        is_seen: rows of training, bool `(N,)`, from which "auto" chooses.

    Raises:
        DataError: periods are named, but times are numbers.
    """
    is_auto = calendar == "auto" and table.schema.time_kind == "datetime"
    stamps = Stamps.of(table, is_seen) if is_auto else Stamps.none()
    return replace(table, schema=schema_with_calendar(table.schema, calendar, stamps, source=table.source))


def schema_with_calendar(schema: Schema, calendar: str | Sequence[str], stamps: Stamps, *, source: str) -> Schema:
    """Give the schema that names the periods; `stamps` are those of the training rows.

    Raises:
        DataError: periods are named, but times are numbers.
    """
    if calendar == "none" or (calendar == "auto" and schema.time_kind == "number"):
        return replace(schema, calendar=())
    if schema.time_kind == "number":
        raise DataError(
            f"{source}: calendar names '{calendar[0]}', but the times are numbers, which have none; write them as dates, or leave out "
            "--data.calendar (`calendar`)."
        )
    chosen = stamps.periods() if calendar == "auto" else tuple(period for period in PERIODS if period in calendar)
    return replace(schema, calendar=chosen)
