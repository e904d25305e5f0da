"""Work that is cut into independent pieces, done by the workers of Ray: of this machine, or of the cluster that `RAY_ADDRESS` names.

The pieces go through Ray Data: it keeps every worker busy, and gives a piece whose worker dies to another one. A piece has to be such that
doing it twice is doing it once.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from latentode import errors
from latentode.errors import InputError, LatentODEError
from latentode.forecasting.histories import ParquetHistories
from latentode.forecasting.parts import Asking, Part
from latentode.forecasting.runs import load_run
from latentode.models.fitted import FittedModel

STORE_BYTES = 80 << 20  # the least that Ray takes for what workers share
MISSING = "--engine ray needs Ray, which is not installed; run `pip install 'latentode[ray]'`, or leave --engine out."


class Piecework(Protocol):
    """Does one of several pieces; plain values and arrays, which are sent to the workers once."""

    def __call__(self, fitted: FittedModel, piece: int) -> Any:
        """Do a piece and give its result."""
        ...


@dataclass(frozen=True)
class RayWorkers:
    """Workers that load a run by themselves, from plain values and tensors alone.

    Attributes:
        run_folder: of the model; the workers have to see it, the history, and the folder that is written into, under the same paths.
        allow_modules: modules of own classes that the run may import.
    """

    run_folder: str | Path
    allow_modules: Sequence[str] = ()

    def answer(self, asking: Asking, fitted: FittedModel, parts: Sequence[Part]) -> Iterator[int]:
        """Answer parts of a forecast; an `Engine` of `write_forecast`.

        Raises:
            InputError: Ray is not installed, or a device other than the processor is asked for.
            LatentODEError: what a worker raised.
        """
        del fitted  # every worker loads its own
        if asking.device != "cpu":
            raise InputError(f"--engine ray computes on processors, not on {asking.device}; leave out --device.")
        yield from self.do(_Answers(_for_workers(asking), tuple(parts)), len(parts))

    def do(self, work: Piecework, n_pieces: int) -> Iterator[Any]:
        """Do pieces 0, 1, ...; gives their results as they come, each once.

        Raises:
            InputError: Ray is not installed.
            LatentODEError: what a worker raised.
        """
        if n_pieces == 0:
            return
        sent = pickle.dumps(work, protocol=5)
        with _started(2 * len(sent)) as ray:
            # Each piece is a block of its own, so that the loss of a worker is the loss of one. Tasks and not actors: a pool of actors that
            # takes all processors leaves none for what feeds it.
            pieces = ray.data.from_items([{"id": piece} for piece in range(n_pieces)], override_num_blocks=n_pieces)
            held = {
                "sent": ray.put(sent),
                "run_folder": str(Path(self.run_folder).resolve()),
                "allow_modules": tuple(self.allow_modules),
                "folder": str(Path.cwd()),
            }
            answered = pieces.map_batches(_do, fn_kwargs=held, batch_size=1, batch_format="numpy", num_cpus=1)
            for batch in answered.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for result in batch["result"]:
                    yield _unpack(result)


@dataclass(frozen=True)
class _Answers:
    asking: Asking
    parts: tuple[Part, ...]

    def __call__(self, fitted: FittedModel, piece: int) -> int:
        return self.asking.answer(fitted, self.parts[piece])


def _for_workers(asking: Asking) -> Asking:
    """Leave out what a worker does not need: the names of all series, where it reads those of its own part."""
    histories = asking.histories
    if isinstance(histories, ParquetHistories):
        histories = replace(histories, series_ids=histories.series_ids[:0])
    return replace(asking, histories=histories, folder=asking.folder.absolute())


def _do(
    batch: dict[str, Any], sent: Any, run_folder: str, allow_modules: tuple[str, ...], folder: str
) -> dict[str, list[bytes]]:
    """Do a piece in a process of Ray."""
    work, fitted = _prepare(sent, run_folder, allow_modules, folder)
    results = []
    for piece in batch["id"]:
        try:
            results.append(pickle.dumps((None, work(fitted, int(piece)))))
        except (LatentODEError, OSError) as error:
            # As a result: Ray would wrap the sentence in the traceback of a process that nobody sees, and try again.
            results.append(pickle.dumps((type(error).__name__, str(error))))
    return {"result": results}


@lru_cache(maxsize=1)
def _prepare(sent: Any, run_folder: str, allow_modules: tuple[str, ...], folder: str) -> tuple[Piecework, FittedModel]:
    """Get the work and load the model, once in the life of a process."""
    import ray

    # One of several on this machine.
    torch.set_num_threads(1)
    # Paths stay as the user wrote them.
    os.chdir(folder)
    return pickle.loads(ray.get(sent)), load_run(run_folder, allow_modules=allow_modules)


def _unpack(result: bytes) -> Any:
    name, value = pickle.loads(result)
    if name is None:
        return value
    kind = getattr(errors, name, LatentODEError)
    raise kind(value)


@contextmanager
def _started(n_bytes: int) -> Iterator[Any]:
    """Give Ray, started for this process alone where no cluster is named."""
    # Before the import, which reads them. The monitor ends workers for the memory that other programs take.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    # The workers are what is waited for: Ray's own default leaves them next to nothing of a machine that is busy.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(MISSING) from error
    is_ours = not ray.is_initialized()
    if is_ours and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    elif is_ours:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=max(STORE_BYTES, n_bytes),
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()
