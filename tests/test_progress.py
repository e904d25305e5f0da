"""What is shown of long work: by a scripted clock, into a text instead of a terminal."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from latentode import progress
from latentode.progress import Display, make_console, showing_progress, track, write_seconds


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def show_on(display):
    """Put a display of the test's own where the standard error's would be."""
    return progress._display.set(display)


@pytest.fixture
def terminal(clock):
    """Give a display on a terminal of 80 columns, and what was written to it."""
    file = io.StringIO()
    display = Display(Console(file=file, force_terminal=True, width=80, color_system=None, _environ={}), clock)
    token = show_on(display)
    yield display, file
    progress._display.reset(token)


@pytest.fixture
def pipe(clock):
    token = show_on(Display(Console(file=io.StringIO(), _environ={}), clock))
    yield clock
    progress._display.reset(token)


def test_nothing_is_shown_where_nobody_asked(capsys):
    with track("forecasting", 10, "series") as advance:
        advance(10, "a note")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_how_far_each_work_is_and_how_long_it_will_take(terminal, clock):
    display, file = terminal
    with track("backtest", 4, "origins") as outer:
        clock.now += 6
        outer()
        with track("fitting", 10, "epochs") as inner:
            clock.now += 2
            inner(5, "best 0.5 [red]")
            display.bars.refresh()
            # 1 of 4 took 8 s in all, 5 of 10 took 2 s
            seen = file.getvalue().splitlines()[-2:]
            assert "1 of 4 origins" in seen[0]
            assert "0:24 left" in seen[0]
            assert "5 of 10 epochs best 0.5 [red]" in seen[1]
            assert "0:02 left" in seen[1]
    assert display.bars is None
    assert display.works == []


def test_a_failure_gives_the_terminal_back(terminal):
    display, file = terminal
    with pytest.raises(ValueError, match="no"), track("reading"):
        raise ValueError("no")
    assert display.bars is None
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")  # the cursor is seen again


def test_a_pipe_gets_no_line_of_short_work_and_ever_rarer_ones_of_long_work(pipe, capsys):
    times = []
    with track("forecasting", 100_000, "series") as advance:
        for _ in range(100_000 // 50):
            pipe.now += 1
            advance(50)
            if capsys.readouterr().err:
                times.append(pipe.now - 100)
    assert times[0] == 10
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert max(gaps) > 5 * gaps[0]


def test_a_line_names_every_work_and_the_time_left_of_the_outermost(pipe, capsys):
    with track("benchmark", 3, "runs") as runs:
        pipe.now += 60
        runs()
        assert capsys.readouterr().err == "benchmark: 1 of 3 runs (2:00 left)\n"
        pipe.now += 60
        with track("reading data.csv"):
            assert capsys.readouterr().err == "benchmark: 1 of 3 runs; reading data.csv (4:00 left)\n"


def test_what_was_done_before_took_no_time(pipe, capsys):
    with track("forecasting", 100, "series", done=80) as advance:
        pipe.now += 20
        advance(10)
    assert capsys.readouterr().err == "forecasting: 90 of 100 series (0:20 left)\n"


def test_an_inner_call_uses_the_display_that_is_on_or_turns_it_off(terminal):
    display, _ = terminal
    with showing_progress(), track("inner"):
        assert len(display.works) == 1
    with showing_progress(False), track("inner"):
        assert display.works == []


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(variable, monkeypatch):
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    console = make_console()
    console.file = io.StringIO()
    console.print("[bold red]text")
    assert console.file.getvalue() == "text\n"


def test_times_are_written_as_on_a_clock():
    assert [write_seconds(x) for x in (0.2, 59.7, 3599, 90000)] == ["0:00", "1:00", "59:59", "25:00:00"]
