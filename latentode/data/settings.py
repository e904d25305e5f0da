"""The settings of `data`: which columns, which windows, which split. Torch-free, so that `fit --help` answers at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from latentode.errors import InputError, did_you_mean

# Settings that are lists of columns; a column has one role, so the last two and `channels` have none in common.
COLUMN_LISTS = ("channels", "target_channels", "log_channels", "count_channels", "static_columns", "known_columns")
CHANNEL_LISTS = ("target_channels", "log_channels", "count_channels")  # which are chosen among the channels
READING = ("id_column", "time_column", *COLUMN_LISTS, "bounded_channels", "layout", "duplicates", "time_zone")
CHOICES = {
    "layout": ("wide", "long"),
    "duplicates": ("error", "mean", "last"),
    "split": ("time", "series"),
    "scaling": ("standard", "robust"),
}
PERIODS = ("hour", "weekday", "season")  # of the calendar


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class DataSettings:
    """What to read and how to cut it into training examples; every field is a `--data.*` option and a `Forecaster` keyword.

    Raises:
        InputError: a value outside what its field allows.
    """

    path: str | None = _setting(
        None, "CSV (plain or .gz) or Parquet (file or folder) with one row per series and time stamp"
    )
    id_column: str | None = _setting("series_id", "column that names the series; a table without it is one series")
    time_column: str = _setting("time", "column of the time stamps: numbers or ISO 8601 datetimes")
    channels: list[str] | None = _setting(
        None, "columns of observed values, as [a,b] (left out: every remaining numeric column)"
    )
    target_channels: list[str] | None = _setting(None, "channels that are forecast, as [a,b] (left out: all)")
    static_columns: list[str] | None = _setting(
        None, "columns with one value per series, numbers or categories, as [a,b]; empty where it is not known"
    )
    known_columns: list[str] | None = _setting(
        None, "columns of numbers known in the future too, as [a,b]; a forecast takes them from its query table"
    )
    log_channels: list[str] | None = _setting(
        None, "channels of positive values that models see by their logarithm, as [a,b]"
    )
    count_channels: list[str] | None = _setting(
        None, "channels of counts 0, 1, 2, ..., as [a,b]; they are forecast as such"
    )
    bounded_channels: dict[str, list[float]] | None = _setting(
        None, "channels whose values lie between two bounds, as {a: [0, 100]}; forecasts keep to them"
    )
    calendar: list[str] | str = _setting(
        "auto",
        "what models read of a date, as [hour,weekday,season], or auto (those that the training part can show) or none",
    )
    scaling: str = _setting(
        "standard",
        "standard (mean and deviation of a channel) or robust (median and median deviation: outliers do no harm)",
    )
    layout: str = _setting("wide", "wide (one column per channel) or long (columns channel and value)")
    duplicates: str = _setting("error", "what to do with two rows of one series and time: error, mean or last")
    time_zone: str | None = _setting(None, "IANA zone to read times in, needed only where a column mixes offsets")
    horizon: str | float | None = _setting(
        None,
        'how far to forecast: a duration such as "7d", or a number in the unit of time (left out: chosen from the data)',
    )
    history: str | float | None = _setting(
        None, "how much of the past to read before an origin (left out: all of it, up to max_history)"
    )
    max_history: int = _setting(512, "most observed values read per window, the latest ones")
    split: str = _setting("time", "time (the last part of each series is held out) or series (whole series are)")
    val_fraction: float = _setting(0.15, "share of each series' time span, or of the series, held out for validation")
    test_fraction: float = _setting(0.15, "share of each series' time span, or of the series, held out for the test")
    val_from: str | float | None = _setting(None, "time at which validation starts, instead of val_fraction")
    test_from: str | float | None = _setting(None, "time at which the test starts, instead of test_fraction")
    batch_size: int = _setting(64, "windows per training step")
    windows_per_epoch: int = _setting(2048, "windows drawn anew in every epoch")
    streaming: bool = _setting(
        False, "true: train from Parquet files part by part, for a table larger than memory (rows of a series together)"
    )

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("max_history", "batch_size", "windows_per_epoch"):
            _check_positive_integer(name, getattr(self, name))
        for name in ("val_fraction", "test_fraction"):
            _check_fraction(name, getattr(self, name))
        if self.val_fraction + self.test_fraction >= 1:
            raise InputError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave nothing to train on; "
                "make their sum less than 1."
            )
        for name in ("horizon", "history"):
            _check_positive(name, getattr(self, name))
        check_column("id_column", self.id_column, may_be_none=True)
        check_column("time_column", self.time_column)
        check_column_lists({name: getattr(self, name) for name in COLUMN_LISTS}, self.bounded_channels)
        _check_calendar(self.calendar)

    def reading(self) -> dict[str, Any]:
        """Give those settings that are keywords of `read_table`."""
        return {name: getattr(self, name) for name in READING}

    @classmethod
    def help_texts(cls) -> dict[str, str]:
        """Give one line of documentation per field, in order."""
        return {f.name: f.metadata["help"] for f in fields(cls)}


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices, naming the nearest one.

    Raises:
        InputError: `value` is none of `choices`.
    """
    if value in choices:
        return
    raise InputError(f"{name} is '{value}', which is none of {', '.join(choices)}{did_you_mean(value, choices)}.")


def _check_positive_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise InputError(f"{name} is {value!r}; give a whole number of at least 1.")


def _check_fraction(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise InputError(f"{name} is {value!r}; give a number from 0 up to, but not including, 1.")


def _check_positive(name: str, value: Any) -> None:
    # Texts are durations and wait for the kind of time, which only the table knows.
    if value is None or isinstance(value, str):
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InputError(f'{name} is {value!r}; give a positive number or a duration such as "7d".')


def check_column_lists(lists: Mapping[str, Any], bounded: Any = None) -> None:
    """Refuse lists of columns that are none, a column that stands in two lists of other roles, and a channel with two supports.

    Args:
        lists: by the names in `COLUMN_LISTS`.
        bounded: channels with their bounds.

    Raises:
        InputError: see above.
    """
    role_of: dict[str, str] = {}
    for name in COLUMN_LISTS:
        check_columns(name, lists[name])
        role = "channels" if name in CHANNEL_LISTS else name
        for column in lists[name] or ():
            if role_of.setdefault(column, role) != role:
                raise InputError(f"column '{column}' is named in {role_of[column]} and in {name}; give it one role.")

    _check_bounds(bounded)
    supports = {"log_channels": lists["log_channels"], "count_channels": lists["count_channels"]}
    support_of: dict[str, str] = {}
    for name, columns in {**supports, "bounded_channels": bounded}.items():
        for column in columns or ():
            if column in support_of:
                raise InputError(
                    f"column '{column}' is named in {support_of[column]} and in {name}; give it one support."
                )
            support_of[column] = name


def _check_bounds(bounded: Any) -> None:
    if bounded is None:
        return
    if not isinstance(bounded, Mapping) or not bounded:
        raise InputError(f"bounded_channels is {bounded!r}; give bounds by channel, such as {{saturation: [0, 100]}}.")
    for name, bounds in bounded.items():
        are_numbers = isinstance(bounds, Sequence) and not isinstance(bounds, str) and len(bounds) == 2
        are_numbers = are_numbers and all(isinstance(x, Real) and math.isfinite(x) for x in bounds)
        if not are_numbers or not bounds[0] < bounds[1]:
            raise InputError(f"the bounds of '{name}' are {bounds!r}; give two numbers, the lower one first.")


def _check_calendar(value: Any) -> None:
    if value in ("auto", "none"):
        return
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not value or len(set(value)) < len(value) or not set(value) <= {*PERIODS}:
        raise InputError(
            f"calendar is {value!r}; choose auto, none, or a list of {', '.join(PERIODS)} such as [hour,season]."
        )


def check_column(name: str, value: Any, *, may_be_none: bool = False) -> None:
    """Refuse what is no name of a column.

    Raises:
        InputError: `value` is no text, or is None where it may not be.
    """
    if not isinstance(value, str) and not (value is None and may_be_none):
        raise InputError(f"{name} is {value!r}; give the name of a column.")


def check_columns(name: str, value: Any) -> None:
    """Refuse what is no list of distinct column names; None stands for "chosen from the data".

    Raises:
        InputError: `value` is neither None nor such a list.
    """
    if value is None:
        return
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(entry, str) for entry in value):
        raise InputError(f"{name} is {value!r}; give a list of column names.")
    if len(value) == 0:
        raise InputError(f"{name} is an empty list; name at least one column or leave it out.")
    repeated = sorted(entry for entry, n in Counter(value).items() if n > 1)
    if repeated:
        raise InputError(f"{name} names '{repeated[0]}' twice; name each column once.")
