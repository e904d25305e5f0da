"""Columns that are no observations: one value per series, or known in the future too.

Shapes: `S` series, `N` rows, `K` known columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from latentode.data.arrow import is_missing_text, is_numeric, is_string, parse_numbers, pc, read_flags
from latentode.data.cells import Cells
from latentode.data.columns import read_numbers
from latentode.data.rows import Ids, number_texts
from latentode.data.schema import Schema, count, quote_cell, quote_names
from latentode.errors import DataError


@dataclass(frozen=True)
class Statics:
    """What does not change within a series.

    Attributes:
        numbers: float64 `(S, n)`, NaN where not known; the columns `Schema.static_numbers`.
        texts: object `(S, m)`, None where not known; the columns `Schema.static_categories`.
    """

    numbers: np.ndarray
    texts: np.ndarray

    def as_text(self) -> list[str]:
        """Give all that is known of each series as a text, to tell tables apart by."""
        return [repr(pair) for pair in zip(self.numbers.tolist(), self.texts.tolist(), strict=True)]

    def take(self, series: np.ndarray) -> Statics:
        """Give those of the series at these positions."""
        return Statics(self.numbers[series], self.texts[series])

    def codes(self, categories: Sequence[Sequence[str]]) -> np.ndarray:
        """Number the texts of each column by its categories, from 1: int64 `(S, m)`, 0 where not known or none of them."""
        codes = np.zeros(self.texts.shape, dtype=np.int64)
        for column, names in enumerate(categories):
            place = {name: i + 1 for i, name in enumerate(names)}
            codes[:, column] = [place.get(text, 0) for text in self.texts[:, column]]
        return codes

    def categories(self) -> tuple[tuple[str, ...], ...]:
        """Give the texts of each column, those of most series first: whoever reads only some of them reads the common ones."""
        return tuple(_by_frequency(column) for column in self.texts.T)


def _by_frequency(texts: np.ndarray) -> tuple[str, ...]:
    counts = Counter(text for text in texts.tolist() if text is not None)
    return tuple(sorted(counts, key=lambda text: (-counts[text], text)))


def read_statics(
    cells: Cells, names: Sequence[str], ids: Ids, schema: Schema | None
) -> tuple[Statics, tuple[str, ...], tuple[str, ...]]:
    """Read the columns with one value per series; their cells are given up.

    A column of a CSV holds numbers where every cell is one, else categories; one of a DataFrame or Parquet file holds what its type says.

    Args:
        cells: the table.
        names: of the columns.
        ids: the series of each row.
        schema: of a fitted model, which says what is a number and what a category.

    Returns:
        The values, names of the columns of numbers, and names of those of categories.

    Raises:
        DataError: a value changes within a series, or a column of numbers holds text.
    """
    numbers, texts = {}, {}
    for name in names:
        is_number = _holds_numbers(cells, name) if schema is None else name in schema.static_numbers
        if is_number:
            value = read_numbers(cells, name, remedy="empty the cell if it is not known")
            numbers[name] = _one_per_series(cells, name, ids, value, ~np.isnan(value), np.nan)
        else:
            code, distinct = _read_texts(cells, name)
            one = _one_per_series(cells, name, ids, code, code >= 0, -1, distinct)
            texts[name] = np.asarray([*distinct, None], dtype=object)[one]
        del cells.columns[name]
    n_series = len(ids.names)
    statics = Statics(
        np.stack([*numbers.values()], axis=1) if numbers else np.zeros((n_series, 0)),
        np.stack([*texts.values()], axis=1) if texts else np.zeros((n_series, 0), dtype=object),
    )
    return statics, tuple(numbers), tuple(texts)


def _holds_numbers(cells: Cells, name: str) -> bool:
    column = cells.columns[name]
    if is_numeric(column.type):
        return True
    if not is_string(column.type) or name not in cells.untyped:
        return False
    return read_flags(column) is not None or not parse_numbers(column)[1].any()


def _read_texts(cells: Cells, name: str) -> tuple[np.ndarray, list[str]]:
    """Give a column as numbers of its distinct texts, -1 where there is none."""
    kind = cells.columns[name].type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(f"{cells.at(0)}: column '{name}' is of type {kind}; write each category as text or a number.")
    encoded = number_texts(cells, name)
    trimmed = pc.utf8_trim_whitespace(encoded.dictionary)
    is_missing = is_missing_text(trimmed).to_pylist()
    words = ["" if missing else word for word, missing in zip(trimmed.to_pylist(), is_missing, strict=True)]
    # Texts that differ by blanks around them are one.
    distinct = list(dict.fromkeys(word for word in words if word))
    place = {word: i for i, word in enumerate(distinct)}
    code = np.asarray([*(place.get(word, -1) for word in words), -1], dtype=np.int64)
    return code[pc.fill_null(encoded.indices, len(words)).to_numpy()], distinct


def _one_per_series(
    cells: Cells,
    name: str,
    ids: Ids,
    value: np.ndarray,
    is_known: np.ndarray,
    missing: float,
    words: Sequence[str] | None = None,
) -> np.ndarray:
    """Give the value of each series `(S,)`, or refuse a column that changes within one."""
    rows = np.flatnonzero(is_known)
    first = np.full(len(ids.names), -1)
    # Of several writes to one place the last stands: backwards, that is the first row.
    first[ids.codes[rows[::-1]]] = rows[::-1]
    reference = first[ids.codes[rows]]
    changed = rows[value[rows] != value[reference]]
    if len(changed):
        row = int(changed[0])
        before = int(first[ids.codes[row]])
        held, was = (value[i] if words is None else words[value[i]] for i in (row, before))
        series = f" of series {quote_names([ids.names[ids.codes[row]]])}" if ids.kind != "none" else ""
        raise DataError(
            f"{cells.at(row)}: static column '{name}'{series} holds {quote_cell(held)} after {quote_cell(was)} "
            f"({cells.at(before)}; {count(len(changed), 'such row', 'such rows')}); a static column has one value per series: "
            "correct it, or make it a channel."
        )
    return np.where(first >= 0, value[np.maximum(first, 0)], missing)


def check_known(values: np.ndarray, names: Sequence[str], place: Callable[[int], str]) -> None:
    """Refuse known columns `(N, K)` with an empty cell: what is known in the future is known everywhere.

    Args:
        values: NaN where empty.
        names: of the columns.
        place: gives the place of a row for the message.

    Raises:
        DataError: a cell is empty.
    """
    row, column = np.nonzero(np.isnan(values))
    if len(row):
        raise DataError(
            f"{place(int(row[0]))}: known column '{names[int(column[0])]}' is empty ({count(len(row), 'such cell', 'such cells')}); "
            "a column that is known in the future has a value in every row: fill it in, or make it a channel."
        )


def read_known(cells: Cells, names: Sequence[str]) -> np.ndarray:
    """Read the known columns of a query table: float64 `(Nq, K)`.

    Raises:
        DataError: a column is missing, or a cell of one is empty, text or infinite.
    """
    missing = [name for name in names if name not in cells.columns]
    if missing:
        raise DataError(
            f"{cells.source}: has no column '{missing[0]}', which the model was told is known in the future "
            f"(it has {quote_names(list(cells.columns))}); add it, with a value for every query."
        )
    columns = [read_numbers(cells, name, remedy="a known column holds a number in every row") for name in names]
    values = np.stack(columns, axis=1)
    check_known(values, names, cells.at)
    return values
