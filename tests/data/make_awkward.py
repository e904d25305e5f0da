"""Writes a folder of bad and awkward tables; each comes with the exact table that must be read, or the sentence that must refuse it.

    python -m tests.data.make_awkward FOLDER

The files are what users have: saved by spreadsheets, loggers, other languages and interrupted copies.
"""

from __future__ import annotations

import argparse
import bz2
import datetime
import decimal
import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAN = float("nan")
HEAD = "series_id,time,a,b\n"
SINGLE = "can serve as history only"


@dataclass(frozen=True)
class Case:
    """One file or folder, and what `read_table` must make of it.

    Attributes:
        name: of the file.
        content: its text or bytes, or what writes it to the path that it is given.
        rows: what must be read, as `Table.to_frame` gives it; None where it must be refused.
        notes: a part of each note that the reading must make, in order.
        refusal: how the message must go on after the path; None where the file must be read.
        options: of `read_table`.
    """

    name: str
    content: str | bytes | Callable[[Path], object]
    rows: tuple[tuple[Any, ...], ...] | None = None
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the file into a folder and give its path."""
        path = folder / self.name
        if isinstance(self.content, str):
            path.write_bytes(self.content.encode("utf-8"))
        elif isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def read(name: str, content: Any, *rows: tuple[Any, ...], notes: tuple[str, ...] = (), **options: Any) -> Case:
    """A file that must be read as these rows."""
    return Case(name, content, rows, notes, None, options)


def refused(name: str, content: Any, refusal: str, **options: Any) -> Case:
    """A file that must be refused, with a message that goes on so after the path."""
    return Case(name, content, refusal=refusal, options=options)


def parquet(**columns: Any) -> Callable[[Path], None]:
    """Give what writes these columns to a Parquet file."""
    return lambda path: pq.write_table(pa.table(columns), path)


def folder(**files: dict[str, Any] | bytes) -> Callable[[Path], None]:
    """Give what writes a folder of Parquet files, or of raw bytes; in the names `__` stands for `/`."""

    def write(path: Path) -> None:
        for name, content in files.items():
            # Hive's word for no value has some of its own.
            file = path / (name.replace("__", "/") if "HIVE" not in name else "/".join(name.rsplit("__", 1)))
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                pq.write_table(pa.table(content), file)

    return write


def cut(name: str, columns: dict[str, Any]) -> Callable[[Path], None]:
    """Give what writes a Parquet file without its last bytes."""

    def write(path: Path) -> None:
        pq.write_table(pa.table(columns), path)
        path.write_bytes(path.read_bytes()[:-10])

    return write


def zipped(name: str) -> bytes:
    """Give a zip archive that holds one CSV."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), HEAD + "A,1,2,3\n")
    return buffer.getvalue()


ONE = (("A", 1.0, 2.0, 3.0), ("A", 2.0, 4.0, 5.0))
ROWS = "A,1,2,3\nA,2,4,5\n"
AB = {"series_id": ["A", "A"], "time": [1, 2]}
TWO = (("A", 1.0, 2.0), ("A", 2.0, 4.0))

ENCODINGS = (
    read("utf8_bom.csv", "\ufeff" + HEAD + ROWS, *ONE),
    read(
        "utf8_names.csv",
        "series_id,time,Lufttemperatur °C\nKöln,1,2\nKöln,2,4\n",
        ("Köln", 1.0, 2.0),
        ("Köln", 2.0, 4.0),
    ),
    refused("two_boms.csv", "\ufeff\ufeff" + HEAD + ROWS, ":1: begins with two byte order marks; remove one."),
    refused("utf16.csv", (HEAD + ROWS).encode("utf-16"), ": is encoded as UTF-16; save it as UTF-8."),
    refused("utf16_no_bom.csv", (HEAD + ROWS).encode("utf-16-le"), ":1: holds "),
    refused("utf32.csv", (HEAD + ROWS).encode("utf-32"), ": is encoded as UTF-32; save it as UTF-8."),
    refused(
        "latin1.csv",
        (HEAD + ROWS + "Köln,1,2,3\n").encode("latin-1"),
        ":4: byte 0xf6 is not UTF-8 text; save the file as UTF-8",
    ),
    refused("nul.csv", HEAD + "A,1,2,3\nA,2,\0,5\n", ":3: holds 1 NUL byte; the file is binary or damaged"),
    read("mixed_line_ends.csv", "series_id,time,a,b\r\nA,1,2,3\nA,2,4,5\r\n", *ONE),
    read("old_mac_line_ends.csv", (HEAD + ROWS).replace("\n", "\r"), *ONE),
    read("no_last_line_end.csv", (HEAD + ROWS).rstrip("\n"), *ONE),
)

SEPARATORS = (
    refused(
        "semicolons.csv",
        "series_id;time;a\nA;1;1,5\n",
        ":1: the columns seem to be separated by semicolons; save the file with commas.",
    ),
    refused(
        "tabs.csv",
        "series_id\ttime\ta\nA\t1\t1.5\n",
        ":1: the columns seem to be separated by tabs; save the file with commas.",
    ),
    refused(
        "bars.csv",
        "series_id|time|a\nA|1|1.5\n",
        ":1: the columns seem to be separated by bars; save the file with commas.",
    ),
    refused("excel_separator_line.csv", "sep=,\n" + HEAD + ROWS, ":1: is the line 'sep=' that Excel writes; remove it"),
    read(
        "trailing_commas.csv",
        "series_id,time,a,\nA,1,2,\nA,2,4,\n",
        *TWO,
        notes=("1 column has no name and was left out.",),
    ),
    refused(
        "trailing_commas_in_rows.csv",
        "series_id,time,a\nA,1,2,\nA,2,4,\n",
        ":2: has 4 cells where the header has 3 (2 such rows)",
    ),
    refused("short_row.csv", HEAD + "A,1,2,3\nA,2,4\n", ":3: has 3 cells where the header has 4 (1 such row)"),
    refused("long_row.csv", HEAD + "A,1,2,3\nA,2,4,5,6\n", ":3: has 5 cells where the header has 4 (1 such row)"),
    refused("cut_off_row.csv", HEAD + "A,1,2,3\nA,2", ":3: has 2 cells where the header has 4 (1 such row)"),
    read("quoted_cells.csv", 'series_id,time,a,b\n"A","1","2","3"\n"A",2,"4",5\n', *ONE),
    read(
        "comma_in_a_quoted_id.csv",
        HEAD + '"A, north",1,2,3\n"A, north",2,4,5\n',
        *((("A, north", *row[1:])) for row in ONE),
    ),
    read(
        "line_break_in_a_cell.csv",
        HEAD + '"A\nnorth",1,2,3\n"A\nnorth",2,4,5\n',
        *((("A\nnorth", *row[1:])) for row in ONE),
        notes=("2 cells of column 'series_id' hold a line break, the first at ",),
    ),
    read(
        "quotes_that_pair_up_by_accident.csv",
        'series_id,time,a\nB,1,2\nB,2,3\n"A,1,2\nA,2,3\nB",3,4\n',
        ("B", 1.0, 2.0),
        ("B", 2.0, 3.0),
        ("A,1,2\nA,2,3\nB", 3.0, 4.0),
        notes=("quotes_that_pair_up_by_accident.csv:4; if this is not meant, a quote", SINGLE),
    ),
    read(
        "line_break_in_a_comment.csv",
        'series_id,time,a,comment\nA,1,2,\nA,2,4,"two\r\nlines"\n',
        *TWO,
        notes=("1 cell of column 'comment' holds a line break", "Column 'comment' holds no numbers"),
    ),
    refused(
        "line_breaks_before_a_slip.csv",
        HEAD + '"A\nnorth",1,2,3\n"A\nnorth",2,x,5\n',
        ":4: column 'a' holds 'x', which is not a number (1 such row); correct it",
    ),
    refused(
        "open_quote.csv", HEAD + 'A,1,2,3\n"A,2,4,5\n', ":3: a quote is opened in this row and never closed; close it."
    ),
    refused(
        "open_quote_in_the_header.csv",
        'series_id,time,"a\nA,1,2\n',
        ":1: a quote in the header is not closed on its line; close it.",
    ),
)

HEADERS = (
    refused("empty.csv", "", ": is empty; a table needs a header and at least one row."),
    refused("blank_lines.csv", "\n\r\n\n", ": is empty; a table needs a header and at least one row."),
    refused("header_only.csv", HEAD, ": holds a header but no rows; a table needs at least one row."),
    refused("no_header.csv", ROWS, ": has no time column 'time' (it has 'A', '1', '2', '3'); name it with --data.time_column"),
    refused("duplicate_columns.csv", "series_id,time,temp,temp\nA,1,2,3\n", ":1: column 'temp' stands 2 times (columns 3, 4); give every column its own name."),
    refused("columns_that_differ_by_a_blank.csv", "series_id,time,temp,temp \nA,1,2,3\n", ":1: column 'temp' stands 2 times (columns 3, 4)"),
    refused("comment_line.csv", "# made by a logger\n" + HEAD + ROWS, ":1: begins with the comment '# made by a logger'; remove it"),
    refused("comment_between_rows.csv", HEAD + "A,1,2,3\n# restart\nA,2,4,5\n", ":3: has 1 cell where the header has 4 (1 such row)"),
    refused("units_row.csv", HEAD + "-,h,degC,m/s\n" + ROWS, ":2: column 'time' holds 'h' where other rows hold numbers (1 such row)"),
    refused("units_row_below_dates.csv", HEAD + "-,UTC,degC,m/s\nA,2026-01-31,2,3\nA,2026-02-01,2,3\n", ":2: column 'time' holds 'UTC', which is no ISO 8601 datetime (1 such row)"),
    refused("header_twice.csv", HEAD + ROWS + HEAD + "A,3,1,1\n", ":4: column 'time' holds 'time' where other rows hold numbers (1 such row)"),
    refused("total_row.csv", HEAD + ROWS + "total,,6,8\n", ":4: column 'time' holds no time (1 such row); fill it in or remove the row."),
    refused("capital_names.csv", "Series_ID,time,a\nA,1,2\nB,2,3\n", ": has no column 'series_id' but a column 'Series_ID'; name it with --data.id_column"),
    refused("capital_time.csv", "series_id,Time,a\nA,1,2\n", ": has no time column 'time' (it has 'series_id', 'Time', 'a'); did you mean 'Time'? If not, name it with"),
    read("index_column.csv", ",series_id,time,a\n0,A,1,2\n1,A,2,4\n", *TWO, notes=("1 column has no name and was left out.",)),
    read("other_names.csv", "unique_id,ds,y\nA,1,2\nA,2,4\n", *TWO, id_column="unique_id", time_column="ds"),
)  # fmt: skip

NUMBERS = (
    read("missing_cells.csv", HEAD + "A,1,NA,1\nA,2,null,2\nA,3,,3\nA,4,NaN,4\nA,5,5,5\n", *(("A", float(t), NAN if t < 5 else 5.0, float(t)) for t in range(1, 6))),
    refused("dash.csv", HEAD + "A,1,-,1\nA,2,3,2\n", ":2: column 'a' holds '-', which is not a number (1 such row); correct it, empty the cell if nothing was observed"),
    refused("decimal_comma.csv", HEAD + 'A,1,"1,5",1\nA,2,3,2\n', ":2: column 'a' holds '1,5', which is not a number (1 such row); write a decimal point in place of the comma"),
    refused("decimal_commas_all_over.csv", HEAD + 'A,1,"1,5",1\nA,2,"2,5",2\n', ":2: column 'a' holds '1,5', which is not a number (2 such rows); write a decimal point"),
    refused("thousands.csv", HEAD + 'A,1,"1,234.5",1\nA,2,3,2\n', ":2: column 'a' holds '1,234.5', which is not a number (1 such row); write it without thousands separators"),
    refused("thousands_by_blanks.csv", HEAD + "A,1,1 234,1\nA,2,5 678,2\n", ":2: column 'a' holds '1 234', which is not a number (2 such rows); write it without thousands separators"),
    refused("percent.csv", HEAD + "A,1,45%,1\nA,2,50 %,2\n", ":2: column 'a' holds '45%', which is not a number (2 such rows); write it without the percent sign"),
    refused("currency.csv", HEAD + "A,1,$5,1\nA,2,$6.50,2\n", ":2: column 'a' holds '$5', which is not a number (2 such rows); write it without the sign of the currency"),
    refused("hexadecimal.csv", HEAD + "A,1,0x1F,1\nA,2,3,2\n", ":2: column 'a' holds '0x1F', which is not a number (1 such row); write it as a decimal number"),
    refused("unicode_minus.csv", HEAD + "A,1,\u22122,1\nA,2,\u22123,2\n", ":2: column 'a' holds '\u22122', which is not a number (2 such rows); write the minus as '-'"),
    refused("unicode_digits.csv", HEAD + "A,1,\u0662,1\nA,2,\u0663,2\n", ":2: column 'a' holds '\u0662', which is not a number (2 such rows); write it with the digits 0 to 9"),
    refused("fortran.csv", HEAD + "A,1,1.5D+03,1\nA,2,3,2\n", ":2: column 'a' holds '1.5D+03', which is not a number (1 such row); correct it"),
    refused("blank_before_a_quote.csv", HEAD + 'A,1, "2",1\nA,2, "3",2\n', ":2: column 'a' holds '\"2\"', which is not a number (2 such rows); remove the blank before the quote"),
    refused("single_quotes.csv", HEAD + "A,1,'2',1\nA,2,'3.5e1',2\n", ":2: column 'a' holds \"'2'\", which is not a number (2 such rows); write it without quotes"),
    refused("t_and_f.csv", HEAD + "A,1,T,1\nA,2,F,2\nA,3,,2\n", ":2: column 'a' holds 'T', which is not a number (2 such rows); write true and false, or 1 and 0"),
    refused("yes_and_no.csv", HEAD + "A,1,yes,1\nA,2,no,2\n", ":2: column 'a' holds 'yes', which is not a number (2 such rows); write true and false, or 1 and 0"),
    read("the_sex_of_all.csv", HEAD + "A,1,F,1\nA,2,F,2\nA,3,,2\n", ("A", 1.0, 1.0), ("A", 2.0, 2.0), ("A", 3.0, 2.0), notes=("Column 'a' holds no numbers (2 cells",)),
    read("sexes.csv", HEAD + "A,1,F,1\nA,2,M,2\n", ("A", 1.0, 1.0), ("A", 2.0, 2.0), notes=("Column 'a' holds no numbers (2 cells",)),
    refused("below_detection.csv", HEAD + "A,1,<0.5,1\nA,2,3,2\n", ":2: column 'a' holds '<0.5', which is not a number (1 such row); correct it"),
    refused("infinite.csv", HEAD + "A,1,1,1\nA,2,-inf,2\n", ":3: column 'a' holds an infinite value (1 such row); correct it, or empty the cell"),
    refused("too_large.csv", HEAD + "A,1,1,1\nA,2,1e309,2\n", ":3: column 'a' holds an infinite value (1 such row)"),
    read("large.csv", HEAD + "A,1,1e308,-1.7976931348623157e308\nA,2,2e307,0\n", ("A", 1.0, 1e308, -1.7976931348623157e308), ("A", 2.0, 2e307, 0.0)),
    read("subnormal.csv", HEAD + "A,1,5e-324,2.2250738585072011e-308\nA,2,0,-0.0\n", ("A", 1.0, 5e-324, 2.2250738585072011e-308), ("A", 2.0, 0.0, -0.0)),
    read("spellings.csv", HEAD + "A,1, +5 ,.5\nA,2,5.,1E-2\n", ("A", 1.0, 5.0, 0.5), ("A", 2.0, 5.0, 0.01)),
    read("beyond_2_53.csv", HEAD + "A,1,9007199254740993,1\nA,2,5,2\n", ("A", 1.0, 9007199254740992.0, 1.0), ("A", 2.0, 5.0, 2.0), notes=("1 value of 'a' is beyond 2^53, where",)),
    read("booleans.csv", HEAD + "A,1,True,1\nA,2,false,2\nA,3,,3\n", ("A", 1.0, 1.0, 1.0), ("A", 2.0, 0.0, 2.0), ("A", 3.0, NAN, 3.0), notes=("Column 'a' holds true and false, read as 1 and 0.",)),
    refused("booleans_and_numbers.csv", HEAD + "A,1,True,1\nA,2,7,2\n", ":2: column 'a' holds 'True', which is not a number (1 such row)"),
    read("words.csv", HEAD + "A,1,north,3\nA,2,south,5\n", ("A", 1.0, 3.0), ("A", 2.0, 5.0), notes=("Column 'a' holds no numbers (2 cells of text or other kind) and was left out.",)),
    refused("one_word_late.csv", HEAD + "".join(f"A,{t},{t},{t}\n" for t in range(30_000)) + "A,30000,oops,1\n", ":30002: column 'a' holds 'oops', which is not a number (1 such row)"),
    read("minus_999.csv", HEAD + "A,1,-999,1\nA,2,3,2\nA,3,4,2\n", ("A", 1.0, -999.0, 1.0), ("A", 2.0, 3.0, 2.0), ("A", 3.0, 4.0, 2.0), notes=("1 value of 'a' is -999, far from all others; if this stands for a missing value, empty these cells.",)),
    read("minus_one.csv", HEAD + "A,1,-1,1\nA,2,70.5,2\nA,3,81,2\nA,4,-1,2\n", ("A", 1.0, -1.0, 1.0), ("A", 2.0, 70.5, 2.0), ("A", 3.0, 81.0, 2.0), ("A", 4.0, -1.0, 2.0), notes=("2 values of 'a' are -1, the only negative number;",)),
    *(
        read(f"filler_{i}.csv", HEAD + f"A,1,{text},1\nA,2,3,2\nA,3,4,2\n", ("A", 1.0, float(text), 1.0), ("A", 2.0, 3.0, 2.0), ("A", 3.0, 4.0, 2.0), notes=(f"1 value of 'a' is {float(text):g}, far from all others;",))
        for i, text in enumerate(("-3.4028235e38", "3.4028234663852886e38", "-2147483647", "2147483647", "-99.99", "-8888", "9999999"))
    ),
    read("three_fillers.csv", HEAD + "A,1,-9999,1\nA,2,-999,2\nA,3,9999,2\nA,4,3,2\nA,5,4,2\n", *(("A", t + 1.0, a, 1.0 if t == 0 else 2.0) for t, a in enumerate((-9999.0, -999.0, 9999.0, 3.0, 4.0))), notes=("1 value of 'a' is -9999, far", "1 value of 'a' is -999, far", "1 value of 'a' is 9999, far")),
    read("percent_to_99.csv", HEAD + "A,1,0,1\nA,2,50,2\nA,3,99,2\n", ("A", 1.0, 0.0, 1.0), ("A", 2.0, 50.0, 2.0), ("A", 3.0, 99.0, 2.0)),
    refused("nothing_observed.csv", HEAD + "A,1,,NaN\nA,2,,\n", ": no channel holds a single value ('a', 'b'); name the columns of values with"),
    read("a_channel_that_one_series_lacks.csv", HEAD + "A,1,1,1\nA,2,2,2\nB,1,,1\nB,2,,2\n", ("A", 1.0, 1.0, 1.0), ("A", 2.0, 2.0, 2.0), ("B", 1.0, NAN, 1.0), ("B", 2.0, NAN, 2.0)),
)  # fmt: skip

SPLIT = ("1970-01-01", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2126-01-01", "2126-01-02")
DAY = "A,{},1,1\nA,{},2,2\n"
PAIR = ((1.0, 1.0), (2.0, 2.0))


def days(first: Any, second: Any) -> tuple[tuple[Any, ...], ...]:
    """Give the rows of `DAY`."""
    return ("A", first, 1.0, 1.0), ("A", second, 2.0, 2.0)


TIMES = (
    refused("mixed_date_formats.csv", HEAD + DAY.format("2026-01-31", "01/02/2026"), ":3: column 'time' holds '01/02/2026', which is no ISO 8601 datetime (1 such row); write it as 2026-01-31"),
    refused("day_first.csv", HEAD + DAY.format("31.01.2026", "01.02.2026"), ":2: column 'time' holds '31.01.2026', which is no ISO 8601 datetime (2 such rows); write it as 2026-01-31"),
    refused("month_first.csv", HEAD + DAY.format("01/02/2026 07:30 PM", "01/03/2026 07:30 PM"), ":2: column 'time' holds '01/02/2026 07:30 PM', which is no ISO 8601 datetime (2 such rows)"),
    refused("dates_and_numbers.csv", HEAD + DAY.format("2026-01-31", "46054") + "A,46055,1,1\n", ":2: column 'time' holds '2026-01-31' where other rows hold numbers (1 such row)"),
    refused("no_such_day.csv", HEAD + DAY.format("2026-02-28", "2026-02-30"), ":3: column 'time' holds '2026-02-30', a day or hour that does not exist (1 such row); correct it."),
    refused("leap_second.csv", HEAD + DAY.format("2016-12-31T23:59:59Z", "2016-12-31T23:59:60Z"), ":3: column 'time' holds '2016-12-31T23:59:60Z', a leap second, which clocks of a computer do not count (1 such row)"),
    refused("an_offset_of_a_day.csv", HEAD + DAY.format("2026-01-31T00:00+24:00", "2026-02-01T00:00+02:00"), ":2: column 'time' holds '2026-01-31T00:00+24:00', whose offset is beyond 23:59 (1 such row); correct the offset."),
    refused("an_offset_of_minutes.csv", HEAD + DAY.format("2026-01-31T00:00-0260", "2026-02-01T00:00+02:00"), ":2: column 'time' holds '2026-01-31T00:00-0260', whose offset is beyond 23:59 (1 such row)"),
    refused("year_9999.csv", HEAD + DAY.format("2026-01-31", "9999-12-31"), ":3: column 'time' holds '9999-12-31', outside the years 1678 to 2261 that nanoseconds can tell (1 such row)"),
    refused("no_time.csv", HEAD + DAY.format("2026-01-31", "NA"), ":3: column 'time' holds no time (1 such row); fill it in or remove the row."),
    refused("infinite_time.csv", HEAD + DAY.format("1", "inf"), ":3: column 'time' holds 'inf', which is not a finite number (1 such row)"),
    read("before_1970.csv", HEAD + DAY.format("1899-12-31T23:00", "1969-07-20T20:17:40"), *days("1899-12-31 23:00:00", "1969-07-20 20:17:40")),
    read("a_stamp_of_1970.csv", "time,a\n" + "".join(f"{day},{a}\n" for a, day in enumerate(SPLIT[:4])), *((f"{day} 00:00:00", float(a)) for a, day in enumerate(SPLIT[:4])), notes=("1 series has a gap more than 100 times as long as all its other rows span: in 'series' 1 row ends at 1970-01-01 00:00:00 and 3 rows begin at 2026-01-01 00:00:00; check these times.",)),
    read("a_series_moved_by_a_century.csv", "series_id,time,a\n" + "".join(f"{s},{day},{a}\n" for s, part in (("A", SPLIT[1:]), ("B", SPLIT[1:5])) for a, day in enumerate(part)), *((s, f"{day} 00:00:00", float(a)) for s, part in (("A", SPLIT[1:]), ("B", SPLIT[1:5])) for a, day in enumerate(part)), notes=("1 series has a gap more than 100 times as long as all its other rows span: in 'A' 4 rows end at 2026-01-04 00:00:00 and 2 rows begin at 2126-01-01",)),
    read("fractions_of_a_second.csv", HEAD + DAY.format("2026-01-01T00:00:00.000001", "2026-01-01T00:00:00.5"), *days("2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.500000")),
    read("nanoseconds.csv", HEAD + DAY.format("2026-01-01T00:00:00.000000001", "2026-01-01T00:00:01"), *days("2026-01-01 00:00:00.000000001", "2026-01-01 00:00:01.000000000")),
    read("date_late_in_a_column_of_stamps.csv", HEAD + DAY.format("2026-01-01T12:00", "2026-01-02"), *days("2026-01-01 12:00:00", "2026-01-02 00:00:00")),
    read("one_offset.csv", HEAD + DAY.format("2026-01-01T00:00+02:00", "2026-01-02T00:00+02:00"), *days("2026-01-01 00:00:00+02:00", "2026-01-02 00:00:00+02:00")),
    refused("mixed_offsets.csv", HEAD + DAY.format("2026-03-28T12:00+01:00", "2026-03-29T12:00+02:00"), ":3: column 'time' mixes the offsets '+01:00', '+02:00'; say in which zone to read it with --data.time_zone"),
    read("mixed_offsets_with_a_zone.csv", HEAD + DAY.format("2026-03-28T12:00+01:00", "2026-03-29T12:00+02:00"), *days("2026-03-28 12:00:00+01:00", "2026-03-29 12:00:00+02:00"), time_zone="Europe/Berlin"),
    refused("some_offsets.csv", HEAD + DAY.format("2026-03-28T12:00+01:00", "2026-03-29T12:00"), ":3: column 'time' holds '2026-03-29T12:00', a time without offset where others have one (1 such row)"),
    read("the_hour_that_comes_twice.csv", HEAD + DAY.format("2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"), *days("2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00"), time_zone="Europe/Berlin"),
    refused("the_hour_that_comes_twice_without_offset.csv", HEAD + DAY.format("2026-10-25T02:30", "2026-10-25T02:30"), ":3: series 'A' has time 2026-10-25 02:30:00 twice (first at "),
    read("epoch_seconds.csv", HEAD + DAY.format("1700000000", "1700003600"), *days(1.7e9, 1700003600.0), notes=("The times look like seconds since 1970 (2023-11-14 22:13:20 to 2023-11-14 23:13:20 UTC)",)),
    read("epoch_milliseconds.csv", HEAD + DAY.format("1700000000000", "1700003600000"), *days(1.7e12, 1700003600000.0), notes=("The times look like milliseconds since 1970 (2023-11-14 22:13:20 to 2023-11-14 23:13:20 UTC)",)),
    read("epoch_nanoseconds.csv", HEAD + DAY.format("1700000000000000000", "1700003600000000000"), *days(1.7e18, 1700003600000000000.0), notes=("2 times are beyond 2^53 and rounded", "The times look like nanoseconds since 1970 (2023-11-14 22:13:20")),
    read("dates_without_dashes.csv", HEAD + DAY.format("20260131", "20260201"), *days(20260131.0, 20260201.0), notes=("The times look like dates without dashes",)),
    refused("unicode_digits_in_time.csv", HEAD + DAY.format("\u0661", "2") + "A,3,3,3\n", ":2: column 'time' holds '\u0661' where other rows hold numbers (1 such row)"),
)  # fmt: skip

SERIES = (
    read("leading_zeros.csv", HEAD + "007,1,1,1\n007,2,2,2\n7,1,3,3\n7,2,4,4\n", ("007", 1.0, 1.0, 1.0), ("007", 2.0, 2.0, 2.0), ("7", 1.0, 3.0, 3.0), ("7", 2.0, 4.0, 4.0)),
    read("id_na.csv", HEAD + "NA,1,1,1\nNA,2,2,2\nnull,1,3,3\nnull,2,4,4\n", ("NA", 1.0, 1.0, 1.0), ("NA", 2.0, 2.0, 2.0), ("null", 1.0, 3.0, 3.0), ("null", 2.0, 4.0, 4.0)),
    read("ids_beyond_2_53.csv", HEAD + "9007199254740993,1,1,1\n9007199254740993,2,2,2\n", (9007199254740993, 1.0, 1.0, 1.0), (9007199254740993, 2.0, 2.0, 2.0)),
    read("ids_beyond_2_63.csv", HEAD + "99999999999999999999,1,1,1\n99999999999999999999,2,2,2\n", ("99999999999999999999", 1.0, 1.0, 1.0), ("99999999999999999999", 2.0, 2.0, 2.0)),
    read("ids_that_differ_by_a_blank.csv", HEAD + "A1,1,1,1\nA1,2,2,2\nA1 ,1,3,3\nA1 ,2,4,4\n", ("A1", 1.0, 1.0, 1.0), ("A1", 2.0, 2.0, 2.0), ("A1 ", 1.0, 3.0, 3.0), ("A1 ", 2.0, 4.0, 4.0), notes=("1 series id is spelt in several ways that differ by blanks, case or the form of a letter only: 'A1', 'A1 '",)),
    *(
        read(f"ids_that_look_alike_{i}.csv", HEAD + f"{one},1,1,1\n{one},2,2,2\n{other},1,3,3\n{other},2,4,4\n", (one, 1.0, 1.0, 1.0), (one, 2.0, 2.0, 2.0), (other, 1.0, 3.0, 3.0), (other, 2.0, 4.0, 4.0), notes=(f"1 series id is spelt in several ways that differ by blanks, case or the form of a letter only: {one!a}, {other!a};",))
        for i, (one, other) in enumerate((("A1", "A\u202f1"), ("A1", "A\u30001"), ("A1", "A\u200b1"), ("A1", "A1\ufeff"), ("K\u00f6ln", "Ko\u0308ln"), ("a1", "A1"), ("\u03c3\u03c2", "\u03a3\u03a3")))
    ),
    read("index_written_along.csv", "Unnamed: 0,series_id,time,a\n0,A,1,2\n1,A,2,4\n", ("A", 1.0, 0.0, 2.0), ("A", 2.0, 1.0, 4.0), notes=("Column 'Unnamed: 0' counts the rows of the file, as an index does, and was read as a channel;",)),
    read("a_column_that_counts_the_rows.csv", "time,a,b\n" + "".join(f"{t},{t + 1},{t % 7}\n" for t in range(12)), *((float(t), t + 1.0, float(t % 7)) for t in range(12)), notes=("Column 'a' counts the rows of the file",)),
    read("a_chosen_column_that_counts_the_rows.csv", "time,a\n" + "".join(f"{t},{t}\n" for t in range(12)), *((float(t), float(t)) for t in range(12)), channels=["a"]),
    refused("blank_id.csv", HEAD + "A,1,1,1\n ,2,2,2\n", ":3: column 'series_id' holds no series id (1 such row); fill it in or remove the row."),
    read("unsorted.csv", HEAD + "B,2,4,4\nA,2,2,2\nB,1,3,3\nA,1,1,1\n", ("B", 1.0, 3.0, 3.0), ("B", 2.0, 4.0, 4.0), ("A", 1.0, 1.0, 1.0), ("A", 2.0, 2.0, 2.0), notes=("1 row comes before the row above in series or time; the table was sorted.",)),
    refused("duplicate_stamps.csv", HEAD + ROWS + "A,1.0,9,9\n", ":4: series 'A' has time 1.0 twice (first at "),
    read("duplicate_stamps_averaged.csv", HEAD + "A,1,1,1\nA,1,3,\nA,2,2,2\n", ("A", 1.0, 2.0, 1.0), ("A", 2.0, 2.0, 2.0), notes=("1 row repeats a series and time; their mean was taken.",), duplicates="mean"),
    refused("repeated_id_with_a_line_break.csv", HEAD + '"A\nB",1,1,1\n"A\nB",1,2,2\n', ":4: series 'A\\nB' has time 1.0 twice (first at "),
    refused("no_id_column.csv", "time,a\n1,1\n2,2\n1,3\n", ":4: the table is read as one series and has time 1.0 twice (first at "),
    read("long_layout.csv", "series_id,time,channel,value\nA,1,a,1\nA,1,b,1\nA,2,b,2\nA,2,a,2\n", *days(1.0, 2.0), layout="long"),
    refused("long_layout_repeats.csv", "series_id,time,channel,value\nA,1,b,1\nA,1,a,1\nA,2,b,1\nA,1,a,2\n", ":5: series 'A' has time 1.0 of channel 'a' twice (first at ", layout="long"),
    refused("long_layout_repeats_at_a_date.csv", "series_id,time,channel,value\nA,2026-02-01,a,1\nA,2026-01-31,a,1\nA,2026-01-31,a,2\n", ":4: series 'A' has time 2026-01-31 00:00:00 of channel 'a' twice (first at ", layout="long"),
    refused("long_layout_word.csv", "series_id,time,channel,value\nA,1,a,1\nA,1,b,abc\n", ":3: column 'value' (channel 'b') holds 'abc', which is not a number (1 such row)", layout="long"),
    refused("long_layout_infinite.csv", "series_id,time,channel,value\nA,1,a,1\nA,1,b,inf\n", ":3: column 'value' (channel 'b') holds an infinite value (1 such row)", layout="long"),
    read("long_layout_ids_that_look_alike.csv", "series_id,time,channel,value\na,1,x,1\na,2,x,2\nA,1,x,1\nA,2,x,2\n", ("a", 1.0, 1.0), ("a", 2.0, 2.0), ("A", 1.0, 1.0), ("A", 2.0, 2.0), notes=("1 series id is spelt in several ways",), layout="long"),
)  # fmt: skip

DAMAGED = (
    refused("missing.csv", lambda path: None, ": no such data file; check the path."),
    refused("directory.csv", lambda path: path.mkdir(), ": is a folder without a .parquet file; give a CSV or Parquet file"),
    refused("loop.csv", lambda path: path.symlink_to(path), ": cannot be read (Too many levels of symbolic links); check the path and its permissions."),
    read("plain_text_named.csv.gz", HEAD + ROWS, *ONE),
    read("gzip_named.csv", gzip.compress((HEAD + ROWS).encode(), mtime=0), *ONE),
    refused("truncated.csv.gz", gzip.compress((HEAD + ROWS * 500).encode(), mtime=0)[:-20], ": the gzip file is cut off or damaged ("),
    refused("zip_archive.csv", zipped("data.csv"), ": is a zip or Excel file, not a CSV; save it as CSV or Parquet."),
    refused("workbook.csv", zipped("xl/workbook.xml"), ": is a zip or Excel file, not a CSV; save it as CSV or Parquet."),
    refused("bzip2.csv", bz2.compress((HEAD + ROWS).encode()), ": is compressed with bzip2; unpack it, or compress it with gzip."),
    refused("feather.csv", b"ARROW1\0\0" + bytes(40), ": is an Arrow (Feather) file; save it as Parquet or CSV."),
    refused("web_page.csv", "<!DOCTYPE html>\n<html><body>404</body></html>\n", ": has no time column 'time' (it has '<!DOCTYPE html>')"),
    refused("truncated.parquet", cut("truncated", {**AB, "a": [2.0, 4.0]}), ": cannot be read as Parquet ("),
    refused("no_rows.parquet", parquet(time=pa.array([], pa.float64()), a=pa.array([], pa.float64())), ": has columns but no rows; a table needs at least one row."),
)  # fmt: skip


def stamps(unit: str, zone: str | None, *, end: str) -> Case:
    """Give a Parquet file of datetimes in a unit and a zone."""
    times = pa.array([datetime.datetime(2026, 7, 1, 10), datetime.datetime(2026, 7, 2, 10)]).cast(
        pa.timestamp(unit, zone)
    )
    name = f"stamps_{unit}_{(zone or 'naive').replace('/', '_').replace(':', '')}.parquet"
    hour = "12" if zone else "10"
    rows = tuple(("A", f"2026-07-0{day} {hour}:00:00{end}", float(2 * day)) for day in (1, 2))
    return read(name, parquet(series_id=["A", "A"], time=times, a=[2.0, 4.0]), *rows)


PARQUET = (
    *(stamps(unit, None, end="") for unit in ("s", "ms", "us", "ns")),
    stamps("us", "Europe/Berlin", end="+02:00"),
    stamps("ms", "+02:00", end="+02:00"),
    *(
        refused(f"zone_{i}.parquet", parquet(time=pa.array([1, 2], pa.timestamp("ms", zone)), a=[1.0, 2.0]), f", row 1: column 'time' is of type timestamp[ms, tz={zone}], whose zone is neither an IANA zone nor an offset; write it")
        for i, zone in enumerate(("Mars/Olympus", "UTC+1", "+24:00"))
    ),
    read("date32.parquet", parquet(series_id=["A", "A"], time=pa.array([20484, 20485], pa.date32()), a=[2.0, 4.0]), ("A", "2026-01-31 00:00:00", 2.0), ("A", "2026-02-01 00:00:00", 4.0)),
    refused("year_9999.parquet", parquet(time=pa.array([0, 253402214400], pa.timestamp("s")), a=[1.0, 2.0]), ", row 2: column 'time' holds '9999-12-31 00:00:00', outside the years 1678 to 2261"),
    refused("time_of_day.parquet", parquet(time=pa.array([1, 2], pa.time32("s")), a=[1.0, 2.0]), ", row 1: column 'time' is of type time32"),
    refused("durations.parquet", parquet(time=pa.array([1, 2], pa.duration("s")), a=[1.0, 2.0]), ", row 1: column 'time' is of type duration[s]; write numbers or ISO 8601 datetimes"),
    read("nested.parquet", parquet(**AB, a=[2.0, 4.0], list=[[1], [2]], struct=[{"x": 1}, {"x": 2}]), *TWO, notes=("Column 'list' holds no numbers (2 cells", "Column 'struct' holds no numbers (2 cells")),
    refused("nested_channel.parquet", parquet(**AB, a=[[2.0], [4.0]]), ", row 1: column 'a' holds '[2.0]', which is not a number (2 such rows)", channels=["a"]),
    refused("nested_id.parquet", parquet(series_id=[["A"], ["A"]], time=[1, 2], a=[2.0, 4.0]), ", row 1: column 'series_id' is of type list<"),
    read("dictionary_ids.parquet", parquet(series_id=pa.array(["A", "A"]).dictionary_encode(), time=[1, 2], a=[2.0, 4.0]), *TWO),
    read("binary_ids.parquet", parquet(series_id=pa.array([b"A", b"A"]), time=[1, 2], a=[2.0, 4.0]), *TWO),
    read("fixed_size_binary_ids.parquet", parquet(series_id=pa.array([b"A", b"A"], pa.binary(1)), time=[1, 2], a=[2.0, 4.0]), *TWO),
    refused("ids_of_bytes.parquet", parquet(series_id=pa.array([b"\xff", b"\xfe"], pa.binary(1)), time=[1, 2], a=[2.0, 4.0]), ", row 1: column 'series_id' is of type binary; write each series id as text"),
    read("boolean_ids.parquet", parquet(series_id=[True, True], time=[1, 2], a=[2.0, 4.0]), ("True", 1.0, 2.0), ("True", 2.0, 4.0)),
    read("large_string_ids.parquet", parquet(series_id=pa.array(["A", "A"], pa.large_string()), time=[1, 2], a=[2.0, 4.0]), *TWO),
    read("text_ids_of_digits.parquet", parquet(series_id=["7", "7"], time=[1, 2], a=[2.0, 4.0]), ("7", 1.0, 2.0), ("7", 2.0, 4.0)),
    read("categories.parquet", parquet(**AB, a=pa.array([2, 4]).dictionary_encode()), *TWO),
    read("decimal.parquet", parquet(**AB, a=[decimal.Decimal("2.00"), decimal.Decimal("4.00")]), *TWO),
    read("nullable_integers.parquet", parquet(series_id=["A"] * 3, time=[1, 2, 3], a=pa.array([2, None, 4], pa.int32()), b=[1, 1, 2]), ("A", 1.0, 2.0, 1.0), ("A", 2.0, NAN, 1.0), ("A", 3.0, 4.0, 2.0)),
    read("beyond_2_53.parquet", parquet(**AB, a=[2**53 + 1, 4]), ("A", 1.0, 2.0**53, ), ("A", 2.0, 4.0), notes=("1 value of 'a' is beyond 2^53",)),
    read("booleans.parquet", parquet(**AB, a=[True, False]), ("A", 1.0, 1.0), ("A", 2.0, 0.0)),
    read("null_column.parquet", parquet(**AB, a=[2.0, 4.0], b=pa.nulls(2)), ("A", 1.0, 2.0, NAN), ("A", 2.0, 4.0, NAN), notes=("1 channel is never observed: 'b'.",)),
    read("half_floats.parquet", parquet(**AB, a=np.asarray([2, 4], np.float16)), *TWO),
    refused("infinite.parquet", parquet(**AB, a=[1.0, float("inf")]), ", row 2: column 'a' holds an infinite value (1 such row)"),
    refused("duplicate_columns.parquet", lambda path: pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["time", "a", "a"]), path), ": column 'a' stands 2 times (columns 2, 3)"),
)  # fmt: skip


def zoned(day: int, zone: str | None) -> dict[str, Any]:
    """Give a row of series A at the start of 31 January 2026, or of a later day, in a zone."""
    return {
        "series_id": ["A"],
        "time": pa.array([1769817600000 + day * 86_400_000], pa.timestamp("ms", zone)),
        "a": [2.0 * (day + 1)],
    }


FOLDERS = (
    read("schemas_that_differ", folder(**{"1.parquet": {"series_id": ["A"], "time": [1], "a": [2]}, "2.parquet": {"series_id": ["A"], "time": [2.0], "a": [4.5], "b": [1]}}), ("A", 1.0, 2.0, NAN), ("A", 2.0, 4.5, 1.0)),
    refused("types_that_differ", folder(**{"1.parquet": {"time": [1], "a": [2]}, "2.parquet": {"time": ["2026-01-31"], "a": [4]}}), "/2.parquet: column 'time' is of type string, but of type int64 in "),
    read("text_and_dictionary", folder(**{"1.parquet": {**AB, "a": [2.0, 4.0]}, "2.parquet": {"series_id": pa.array(["A"]).dictionary_encode(), "time": [3], "a": [6.0]}, "3.parquet": {"series_id": pa.array(["A"], pa.large_string()), "time": [4], "a": [8.0]}}), *TWO, ("A", 3.0, 6.0), ("A", 4.0, 8.0)),
    read("days_and_stamps", folder(**{"1.parquet": {"series_id": ["A"], "time": pa.array([20484], pa.date32()), "a": [2.0]}, "2.parquet": {"series_id": ["A"], "time": pa.array([1769904000500], pa.timestamp("ms")), "a": [4.0]}}), ("A", "2026-01-31 00:00:00.000", 2.0), ("A", "2026-02-01 00:00:00.500", 4.0)),
    read("stamps_of_two_zones", folder(**{"1.parquet": zoned(0, "Europe/Berlin"), "2.parquet": zoned(1, "UTC")}), ("A", "2026-01-31 00:00:00+00:00", 2.0), ("A", "2026-02-01 00:00:00+00:00", 4.0), notes=("Column 'time' is in the zones 'Europe/Berlin', 'UTC' in different files and was read in UTC;",)),
    read("stamps_of_two_zones_in_a_third", folder(**{"1.parquet": zoned(0, "Europe/Berlin"), "2.parquet": zoned(1, "UTC")}), ("A", "2026-01-31 09:00:00+09:00", 2.0), ("A", "2026-02-01 09:00:00+09:00", 4.0), notes=("Column 'time' is in the zones",), time_zone="Asia/Tokyo"),
    refused("stamps_with_and_without_zone", folder(**{"1.parquet": zoned(0, "UTC"), "2.parquet": zoned(1, None)}), "/2.parquet: column 'time' is of type timestamp[ms], but of type timestamp[ms, tz=UTC] in "),
    read("large_numbers_and_floats", folder(**{"1.parquet": {"series_id": ["A"], "time": [1], "a": [2**53 + 1]}, "2.parquet": {"series_id": ["A"], "time": [2], "a": [4.5]}}), ("A", 1.0, 2.0**53), ("A", 2.0, 4.5), notes=("1 value of 'a' is beyond 2^53",)),
    read("names_with_blanks", folder(**{"1.parquet": {" series_id": ["A"], "time ": [1], "a ": [2.0]}, "2.parquet": {"series_id": ["A"], "time": [2], "a": [4.0]}}), *TWO),
    refused("names_that_differ_by_a_blank", folder(**{"1.parquet": {**AB, "a": [2.0, 4.0], "a ": [2.0, 4.0]}}), "/1.parquet: column 'a' stands 2 times (columns 3, 4)"),
    read("partition_without_a_name_of_a_channel", folder(**{"place=1__0.parquet": {**AB, "a": [2.0, 4.0]}, "place=__HIVE_DEFAULT_PARTITION____0.parquet": {"series_id": ["B", "B"], "time": [1, 2], "a": [2.0, 4.0]}}), ("A", 1.0, 2.0, 1.0), ("A", 2.0, 4.0, 1.0), ("B", 1.0, 2.0, NAN), ("B", 2.0, 4.0, NAN)),
    read("a_file_without_rows", folder(**{"1.parquet": {**AB, "a": [2.0, 4.0]}, "2.parquet": {"series_id": pa.array([], pa.string()), "time": pa.array([], pa.int64()), "a": pa.array([], pa.float64())}}), *TWO),
    refused("a_file_of_no_bytes", folder(**{"1.parquet": {**AB, "a": [2.0, 4.0]}, "2.parquet": b""}), "/2.parquet: cannot be read as Parquet ("),
    read("written_by_spark", folder(**{"part-0.parquet": {**AB, "a": [2.0, 4.0]}, "_SUCCESS": b"", ".part-0.parquet.crc": b"x", "_temporary__part-0.parquet": {**AB, "a": [9.0, 9.0]}, ".old__part-0.parquet": {**AB, "a": [9.0, 9.0]}}), *TWO),
    read("with_a_note", folder(**{"1.parquet": {**AB, "a": [2.0, 4.0]}, "README.txt": b"x"}), *TWO, notes=("1 file is no .parquet file and was left out: 'README.txt'.",)),
    read("partitions", folder(**{"series_id=007__0.parquet": {"time": [1, 2], "a": [2.0, 4.0]}, "series_id=A%20B__0.parquet": {"time": [1, 2], "a": [2.0, 4.0]}}), (2.0, 1.0, "007")[::-1], (4.0, 2.0, "007")[::-1], ("A B", 1.0, 2.0), ("A B", 2.0, 4.0)),
    refused("partition_without_a_series", folder(**{"series_id=007__0.parquet": {"time": [1, 2], "a": [2.0, 4.0]}, "series_id=__HIVE_DEFAULT_PARTITION____0.parquet": {"time": [1, 2], "a": [2.0, 4.0]}}), "/series_id=__HIVE_DEFAULT_PARTITION__/0.parquet, row 1: column 'series_id' holds no series id (2 such rows)"),
    refused("a_column_in_the_files_and_the_names", folder(**{"series_id=A__0.parquet": {**AB, "a": [2.0, 4.0]}}), "/series_id=A/0.parquet: column 'series_id' stands in the file and in the names of the folders; remove it from one of them."),
)  # fmt: skip

CASES = (*ENCODINGS, *SEPARATORS, *HEADERS, *NUMBERS, *TIMES, *SERIES, *DAMAGED, *PARQUET, *FOLDERS)


def make_awkward(path: Path) -> list[tuple[Path, Case]]:
    """Write every case into a folder that is there; give each path with its case."""
    return [(case.write(path), case) for case in CASES]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write bad and awkward tables")
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    target.mkdir(parents=True, exist_ok=True)
    for made, wanted in make_awkward(target):
        print(
            f"{made.name:45} {'refused' + wanted.refusal if wanted.refusal else f'read, {len(wanted.rows or ())} rows'}"
        )
