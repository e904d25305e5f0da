"""How far a long work has come, for the person who waits: bars with the time left on a terminal, a plain line now and then elsewhere.

Whoever computes says how far it is, at any depth, and knows nothing of terminals; whoever is waited for turns the display on around it:

    with showing_progress():
        with track("forecasting", total=n_series, unit="series") as advance:
            for part in parts:
                ...
                advance(len(part))

Where no display is on (a library call, a worker), `track` costs a function call and shows nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import Task as Row
from rich.table import Column
from rich.text import Text

WIDTH = 120  # of tables where nobody sees how wide they are
BAR_WIDTH = 20
WHOLE = 1e-6  # short of a whole unit counts as one: parts of units add up to rounding
REFRESHES = 4  # per second: more would be taken from the work itself

# Off a terminal: no line for short work, and ever rarer ones for long work, so that a log of a night stays readable.
FIRST_LINE, MORE, RAREST = 10.0, 1.1, 300.0


class Advance(Protocol):
    """Says that `n` more units are done, and optionally what there is to know just now."""

    def __call__(self, n: float = 1, note: str | None = None) -> None:
        """Note it."""


def make_console(*, stderr: bool = False) -> Console:
    """Give a console that writes no escape code where a file, a pipe, a dumb terminal or `NO_COLOR` wants none."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    console = Console(stderr=stderr, highlight=False, color_system=None if plain else "auto")
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    return console


@contextmanager
def showing_progress(shown: bool = True) -> Iterator[None]:
    """Turn the display on for what runs inside, unless one is on already; or off with `shown=False`."""
    display = (_display.get() or Display()) if shown else None
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def track(title: str, total: float | None = None, unit: str = "", *, done: float = 0) -> Iterator[Advance]:
    """Show one work while it is done; works inside one another stand below each other.

    Args:
        title: what is done: "forecasting".
        total: how many units there are; None: not known, so that only the time that it has taken is shown.
        unit: what is counted, in the plural: "series".
        done: how many were done before, and took no time.
    """
    display = _display.get()
    if display is None:
        yield _nothing
        return
    work = Work(title, total, unit, done, display.clock)
    display.begin(work)
    try:
        yield lambda n=1, note=None: display.advance(work, n, note)
    finally:
        display.end(work)


def _nothing(n: float = 1, note: str | None = None) -> None:
    pass


class Work:
    """One work: how much there is, how much is done, how long that took."""

    def __init__(self, title: str, total: float | None, unit: str, done: float, clock: Callable[[], float]) -> None:
        self.title, self.total, self.unit, self.done, self.note = title, total, unit, done, ""
        self.before, self.clock, self.start = done, clock, clock()
        self.row: Any = None  # of the bar

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.start

    @property
    def left(self) -> float | None:
        """Seconds to the end at the mean speed so far; None where nothing can be said of it."""
        fresh = self.done - self.before
        return None if self.total is None or fresh <= 0 else self.elapsed / fresh * max(self.total - self.done, 0)

    @property
    def count(self) -> str:
        """How far: "3 of 10 runs"."""
        return "" if self.total is None else f"{int(self.done + WHOLE):,} of {int(self.total):,} {self.unit}".rstrip()

    @property
    def time(self) -> str:
        """How long still; where that is not known, how long so far."""
        if self.total is None:
            return write_seconds(self.elapsed)
        return "" if self.left is None else f"{write_seconds(self.left)} left"


def write_seconds(seconds: float) -> str:
    """Write a time for a clock: 0:07, 12:30, 3:05:00.

    >>> write_seconds(7.4), write_seconds(11100)
    ('0:07', '3:05:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Display:
    """What is on: bars on a terminal that can move its cursor, else lines.

    Args:
        console: on which to show it; left out, the standard error.
        clock: seconds, monotone.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or make_console(stderr=True)
        self.clock = clock
        self.works: list[Work] = []
        self.bars: Progress | None = None
        self.start, self.next_line = clock(), FIRST_LINE

    def begin(self, work: Work) -> None:
        """Add a work below those that are on their way."""
        if not self.works and self.console.is_terminal and not self.console.is_dumb_terminal:
            self.bars = self._make_bars()
            self.bars.start()
        self.works.append(work)
        if self.bars:
            work.row = self.bars.add_task(work.title, total=work.total, work=work)
            self.bars.update(work.row, completed=work.done)
        self._show()

    def _make_bars(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            _Told("count"),
            TextColumn(
                "{task.fields[work].note}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            _Told("time"),
            console=self.console,
            refresh_per_second=REFRESHES,
            transient=True,
            # What goes to a file or pipe is not for the terminal.
            redirect_stdout=bool(getattr(sys.stdout, "isatty", bool)()),
        )

    def advance(self, work: Work, n: float, note: str | None) -> None:
        """Note that `n` more units are done."""
        work.done += n
        work.note = work.note if note is None else note
        if self.bars:
            self.bars.update(work.row, completed=work.done)
        self._show()

    def _show(self) -> None:
        """Write a line where there are no bars and the last line is long enough ago."""
        elapsed = self.clock() - self.start
        if not self.bars and elapsed >= self.next_line:
            self.next_line = min(max(elapsed * MORE, elapsed + FIRST_LINE), elapsed + RAREST)
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        """Say how far all is, the time left being that of the outermost work of which it is known."""
        parts = [" ".join(filter(None, (f"{work.title}:", work.count, work.note))) for work in self.works]
        left = next((work.time for work in self.works if work.left is not None), None)
        return "; ".join(parts).rstrip(":") + (f" ({left})" if left else "")

    def end(self, work: Work) -> None:
        """Take a work away; with the last one the terminal is as it was."""
        self.works.remove(work)
        if self.bars:
            self.bars.remove_task(work.row)
            if not self.works:
                self.bars.stop()
                self.bars = None


class _Told(ProgressColumn):
    """Shows what a work says of itself."""

    def __init__(self, name: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.name = name

    def render(self, task: Row) -> Text:
        """Give the text."""
        return Text(getattr(task.fields["work"], self.name))


_display: ContextVar[Display | None] = ContextVar("display", default=None)
