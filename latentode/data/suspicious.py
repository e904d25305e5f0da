"""What is most likely not meant: a unit, a filler or a spelling that would be learned from as if it were data. Never changed, only said.

Each function gives sentences for `Report.notes`, none where nothing is odd.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from latentode.data.arrow import pc
from latentode.data.schema import Survey, count, quote_names

# Fillers of loggers, of NetCDF and of statistics packages; a value counts as one only where it stands far from all others.
FILLERS = frozenset((
    *(-9, -99, -999, -9999, -99999, -8888, -99.99, -999.9, -9999.9, -999.99, -32768, -2147483647, -2147483648),
    *(99, 999, 9999, 99999, 9999999, 999.9, 9999.9, 32767, 2147483647),
))  # fmt: skip
LARGE_FILLERS = (-3.4028235e38, -1e34, -1e30, -1e20, 1e20, 1e30, 1e34, 1e36, 9.96921e36, 3.4028235e38)
_UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
# 1990 to 2050 in seconds since 1970: the years of most tables. Numbers of other units fall into none of the four ranges by chance.
_EPOCH = 631_152_000, 2_524_608_000
SCALE_RATIO = 1_000
GAP_RATIO, _LEAST_ROWS = 100, 4
_NAMES_OF_INDEX = r"unnamed: ?\d+|level_\d+|index|row|(row[_ ]?)?(nr|no|id|number|index)"


def note_epoch(time: np.ndarray) -> tuple[str, ...]:
    """Say which dates numeric times `(N,)` would be, where they look like seconds since 1970 (or ms, us, ns), or like 20260131."""
    low, high = float(time.min()), float(time.max())
    for name, size in _UNITS.items():
        if low >= _EPOCH[0] * size and high < _EPOCH[1] * size:
            ends = [np.datetime64(int(end / size * 1_000), "ms").astype("datetime64[s]") for end in (low, high)]
            first, last = (str(end).replace("T", " ") for end in ends)
            return (
                f"The times look like {name} since 1970 ({first} to {last} UTC) and were read as plain numbers; "
                "durations are then in that unit, or write the times as dates.",
            )
    if low >= 19_000_101 and high <= 21_001_231 and _are_dates(time):
        return (
            "The times look like dates without dashes (20260131 for 2026-01-31) and were read as plain numbers, "
            "whose differences are no durations; write them as 2026-01-31.",
        )
    return ()


def _are_dates(time: np.ndarray) -> bool:
    if not (time == np.floor(time)).all():
        return False
    month, day = time // 100 % 100, time % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


def note_fillers(channels: Sequence[str], values: np.ndarray, survey: Survey) -> tuple[str, ...]:
    """Name values such as -999 that stand far from all others of their channel, or a single negative -1; `values` is `(N, C)`."""
    notes = []
    for i, name in enumerate(channels):
        if not (_may_be_filler(float(survey.low[i])) or _may_be_filler(float(survey.high[i]))):
            continue
        for end, n in _find_fillers(values[:, i]):
            what = count(n, "value", "values")
            why = "the only negative number" if end == -1 else "far from all others"
            notes.append(
                f"{what} of '{name}' {'is' if n == 1 else 'are'} {end:g}, {why}; if this stands for a missing value, empty these cells."
            )
    return tuple(notes)


def _may_be_filler(end: float) -> bool:
    # Large ones may have gone through a float32.
    return end == -1 or end in FILLERS or any(math.isclose(end, filler, rel_tol=1e-6) for filler in LARGE_FILLERS)


def _find_fillers(column: np.ndarray) -> list[tuple[float, int]]:
    """Give the fillers of a column, in ascending order, and how many of each there are."""
    numbers, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    # Several may stand beside each other, at both ends: what lies between them is what they are far from.
    first, stop = 0, len(numbers)
    while first < stop and _may_be_filler(float(numbers[first])):
        first += 1
    while first < stop and _may_be_filler(float(numbers[stop - 1])):
        stop -= 1
    if counts[first:stop].sum() < 2:
        return []
    low, high = float(numbers[first]), float(numbers[stop - 1])
    found = []
    for i in (*range(first), *range(stop, len(numbers))):
        end, n = float(numbers[i]), int(counts[i])
        if end == -1:
            # A descriptor that was not recorded, as in PhysioNet 2012. Not where -1, 0 and 1 are three answers.
            is_filler = n > 1 and low >= 0 and high > 1
        else:
            is_filler = max(low - end, end - high) > high - low
        if is_filler:
            found.append((end, n))
    return found


def note_gaps(time: np.ndarray, starts: np.ndarray, series: np.ndarray, show: Callable[[int], str]) -> tuple[str, ...]:
    """Name series whose rows stand in two groups, apart by a hundred times what both span: most often a wrong year, or no date at all.

    Args:
        time: sorted inside each series, `(N,)`.
        starts: rows of series `s` are `starts[s]:starts[s + 1]`, none empty; `(S + 1,)`.
        series: names, `(S,)`.
        show: writes the time of a row.
    """
    gap = np.zeros(len(time))
    # As floats: the nanoseconds of three centuries fit no int64.
    gap[1:] = time[1:].astype(np.float64) - time[:-1].astype(np.float64)
    gap[starts[:-1]] = 0.0
    largest, span = np.maximum.reduceat(gap, starts[:-1]), np.add.reduceat(gap, starts[:-1])
    rest = span - largest
    # A few rows may well stand like this.
    is_split = (np.diff(starts) >= _LEAST_ROWS) & (largest > GAP_RATIO * rest) & (rest > 0)
    found = np.flatnonzero(is_split)
    if not len(found):
        return ()
    begin, end = starts[found[0]], starts[found[0] + 1]
    row = int(begin + gap[begin:end].argmax())
    n_before, n_after = row - begin, end - row
    which = count(len(found), "series has", "series have")
    return (
        f"{which} a gap more than {GAP_RATIO} times as long as all its other rows span: in '{series[found[0]]}' "
        f"{count(int(n_before), 'row ends', 'rows end')} at {show(row - 1)} and {count(int(n_after), 'row begins', 'rows begin')} at "
        f"{show(row)}; check these times.",
    )


def note_spellings(names: pa.Array, what: str) -> tuple[str, ...]:
    """Name texts that look alike (`A1`, `A1 `, `a1`), which are one series or channel to a reader and two to a program."""
    # Compatible characters made one, blanks and characters that cannot be seen taken out; up, then down, folds a final sigma.
    bare = pc.replace_substring_regex(pc.utf8_normalize(names, "NFKC"), r"[\s\p{Z}\p{Cf}]", "")
    codes = pc.utf8_lower(pc.utf8_upper(bare)).dictionary_encode().indices.to_numpy()
    _, first, n = np.unique(codes, return_index=True, return_counts=True)
    if (n == 1).all():
        return ()
    alike = names.filter(pa.array(codes == codes[first[n > 1][0]])).to_pylist()
    n_groups = int((n > 1).sum())
    which = f"{n_groups:,} {what}s are" if n_groups > 1 else f"1 {what} is"
    return (
        f"{which} spelt in several ways that differ by blanks, case or the form of a letter only: {_quote_spellings(alike)}; they were "
        "read as they stand.",
    )


def _quote_spellings(names: Sequence[str]) -> str:
    """List names in quotes; those that cannot be told apart by eye as Python writes them in ASCII."""
    if all(name.isascii() and name.isprintable() for name in names):
        return quote_names(names)
    shown = ", ".join(ascii(name) for name in names[:20])
    return f"{shown} and {len(names) - 20:,} more" if len(names) > 20 else shown


def note_row_numbers(channels: Sequence[str], values: np.ndarray) -> tuple[str, ...]:
    """Name channels that only count the rows of the file, as an index does that was written along; `values` is `(N, C)` in its order.

    Fewer than ten rows count for a column of such a name alone: 1, 2 is soon measured.
    """
    n_rows = len(values)
    may_count = np.isin(values[0], (0, 1)) & (values[-1] == values[0] + n_rows - 1) if n_rows > 1 else np.zeros(0, bool)
    found = [
        channels[i]
        for i in map(int, np.flatnonzero(may_count))
        if (n_rows >= 10 or re.fullmatch(_NAMES_OF_INDEX, channels[i].lower()))
        and (values[:, i] == values[0, i] + np.arange(n_rows)).all()
    ]
    return tuple(
        f"Column '{name}' counts the rows of the file, as an index does, and was read as a channel; to leave it out, name the others with "
        "--data.channels (`channels`)."
        for name in found
    )


def note_scales(channels: Sequence[str], series: np.ndarray, starts: np.ndarray, values: np.ndarray) -> tuple[str, ...]:
    """Name channels that are a thousand times larger or smaller in some series than in the middle one: a sign of two units.

    Args:
        channels: names, `(C,)`.
        series: names, `(S,)`.
        starts: rows of series `s` are `starts[s]:starts[s + 1]`, none empty; `(S + 1,)`.
        values: `(N, C)`, NaN where not observed.
    """
    notes = []
    for i, name in enumerate(channels):
        # Zero is the same in all units.
        size = np.where(values[:, i] == 0, np.nan, np.abs(values[:, i]))
        least, most = (extreme.reduceat(size, starts[:-1]) for extreme in (np.fmin, np.fmax))
        n = np.add.reduceat(size == size, starts[:-1], dtype=np.int64)
        known = np.flatnonzero(n >= 3)
        if len(known) < 2:
            continue
        # The middle of the digits; the roots first, since a product may overflow.
        middle = np.sqrt(least[known]) * np.sqrt(most[known])
        usual = np.argsort(middle, kind="stable")[(len(known) - 1) // 2]
        is_far = (middle / SCALE_RATIO >= middle[usual]) | (middle <= middle[usual] / SCALE_RATIO)
        if is_far.any():
            which, first = count(int(is_far.sum()), "series", "series"), int(np.flatnonzero(is_far)[0])
            notes.append(
                f"'{name}' is of another scale in {which}: about {middle[first]:.3g} in '{series[known[first]]}', but "
                f"{middle[usual]:.3g} in '{series[known[usual]]}'; check that all are in one unit."
            )
    return tuple(notes)
