"""The command in processes of their own, which start within moments: they are forked from one that has imported everything."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

# For the server that is forked from; nothing of it is used here.
PRELOADED = [
    "latentode.training.command",
    "latentode.forecasting.benchmark",
    "latentode.forecasting.backtest",
    __name__,
]


class Running:
    """A command that runs in a process of its own.

    Args:
        arguments: of `latentode`.
        folder: where it runs; what it says goes to a file there.
        moments: of each place ("module:Class.function") the call, counted from 1, at which something happens to the process.
        what: the signal that the process sends itself, or "hang".
    """

    n_started = 0

    def __init__(self, *arguments, folder, moments=(), what=signal.SIGKILL):
        Running.n_started += 1
        self.output = Path(folder) / f"output-{Running.n_started}.txt"
        words = [str(argument) for argument in arguments]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(target=_run, args=(words, str(folder), str(self.output), list(moments), what))
        self.process.start()

    def wait(self, seconds=120):
        """Give the exit status, negative where a signal has ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.said}"
        return self.process.exitcode

    def send(self, signum):
        os.kill(self.process.pid, signum)

    def until(self, is_so, seconds=120):
        """Wait until something is so, or the process has ended."""
        deadline = time.monotonic() + seconds
        while not is_so() and self.process.is_alive():
            assert time.monotonic() < deadline, f"it never came to be: {self.said}"
            time.sleep(0.002)

    @property
    def said(self):
        return self.output.read_text() if self.output.exists() else ""


def _run(arguments, folder, output, moments, what):
    import torch

    from latentode.cli import run

    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    # As of a process that a shell has started; those that are forked have no standard streams of their own.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    for place, at in moments:
        _arm(place, at, what)
    sys.argv = ["latentode", *arguments]
    run()


def _arm(place, at, what):
    module, _, path = place.partition(":")
    owner, *names = importlib.import_module(module), *path.split(".")
    for name in names[:-1]:
        owner = getattr(owner, name)
    function, n_calls = getattr(owner, names[-1]), 0

    def counted(*args, **kwargs):
        nonlocal n_calls
        n_calls += 1
        if n_calls == at:
            if what != "hang":
                os.kill(os.getpid(), what)
                return function(*args, **kwargs)
            print("hanging", flush=True)
            while True:
                time.sleep(0.01)
        return function(*args, **kwargs)

    setattr(owner, names[-1], counted)
