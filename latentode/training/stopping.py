"""Ctrl-C and SIGTERM end a fit where it can be gone on with: after the batch at hand, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(Exception):
    """Raised within training once its state is saved; no KeyboardInterrupt, which Lightning takes for itself and ends the process."""


class StopRequest:
    """Whether somebody has asked this process to stop.

    While training runs, the first signal is noted, and training leaves after the batch at hand; a second one stops at once. At any other
    time there is nothing to wait for.

    Attributes:
        signum: of the first signal; None: nobody has asked.
        is_training: whether training will look at `signum`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_training = False
        self._heard: list[signal.Signals] = []

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        is_first = self.signum is None
        self.signum = self.signum or signum
        if self.is_training and is_first:
            print("stopping after this batch; once more stops at once.", file=sys.stderr, flush=True)
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals of the process; those that it was started to ignore (`nohup`, a job in the background) stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may
            return
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        try:
            self._heard = [signum for signum, handler in before.items() if handler is not signal.SIG_IGN]
            self.listen()
            yield
        finally:
            self._heard = []
            for signum, handler in before.items():
                if handler is not None:
                    signal.signal(signum, handler)

    def listen(self) -> None:
        """Put the handlers in place, also once more: Lightning puts its own before them, which ends training without a checkpoint."""
        for signum in self._heard:
            signal.signal(signum, self)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Let training look by itself."""
        self.is_training = True
        try:
            yield
        finally:
            self.is_training = False
