"""The processes of a training on this machine: started together, ended together, and of one voice.

Lightning's own launcher starts the others only after this process has read and prepared everything, and where one fails it kills all
without a word. Here they start as soon as it is known how many there are; the first one that fails has its sentence printed and its status
returned, and the others are ended. On a cluster (torchrun, SLURM, Ray) whoever started the processes looks after them.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from latentode.errors import InputError, LatentODEError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WORKER = "LATENTODE_WORKER"  # set in the environment of a process that another one of this machine has started
ALONE = "another process of this training has ended or cannot be reached; its own message says why."
SIOCGIFADDR = 0x8915  # of Linux
GRACE = 10.0  # seconds in which the one that has ended may say why


class Workers:
    """The other processes of a training on this machine.

    Args:
        command: that each of them runs.
        n: how many.
    """

    def __init__(self, command: Sequence[str], n: int) -> None:
        self._is_over = False
        self._lock = threading.RLock()
        self._processes = {
            rank: subprocess.Popen(
                command,
                # Their end of a pipe that closes when this process is gone, however that happened.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "LOCAL_RANK": str(rank), WORKER: "1"},
                # A Ctrl-C is for this process, which ends the others.
                start_new_session=True,
            )
            for rank in range(1, n + 1)
        }
        self._watchers = {
            rank: threading.Thread(target=self._watch, args=(rank,), daemon=True) for rank in self._processes
        }
        for watcher in self._watchers.values():
            watcher.start()

    def _watch(self, rank: int) -> None:
        """Wait for the end of a process; where it has failed, say what it said, and end everything."""
        process = self._processes[rank]
        assert process.stderr is not None
        said = process.stderr.read()
        status = process.wait()
        if status == 0 or self._is_over:
            return
        if ALONE in said:
            # The one that failed first has the word.
            self.wait(GRACE)
        with self._lock:
            if not self._is_over:
                self._end_all(rank, status, said)

    def _end_all(self, rank: int, status: int, said: str) -> NoReturn:
        self.stop()
        if "error: " not in said:
            by = f"by signal {-status}" if status < 0 else f"with status {status}"
            said += f"error: process {rank} of this training was ended {by}, so the others were ended too.\n"
        sys.stderr.write(said if "--traceback" in sys.argv else said[said.rfind("error: ") :])
        sys.stderr.flush()
        sys.stdout.flush()
        # The first process may be deep in a computation, or waiting for the one that is gone.
        os._exit(max(status, 1))

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the processes have ended, for so many seconds each at most."""
        for watcher in self._watchers.values():
            if watcher is not threading.current_thread():
                watcher.join(seconds)

    def stop(self) -> None:
        """End those that are still there."""
        with self._lock:  # not while a watcher is about to end everything
            self._is_over = True
        for process in self._processes.values():
            process.kill()


def _end_with_parent() -> None:
    """End this process where the one that started it is gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def all_processes(trainer: pl.Trainer, arguments: Sequence[str]) -> Iterator[None]:
    """Run what is inside in all processes of a trainer; on the way out wait for all of them.

    Args:
        trainer: not yet running.
        arguments: of the `latentode` command that the others on this machine run.

    Raises:
        InputError: the strategy starts processes in a way that a fit does not survive, or it was not said where the first machine is.
        LatentODEError: another process was lost.
    """
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise InputError("processes that are forked or spawned cannot hand a fit back; choose --trainer.strategy ddp.")
    if trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
        yield
        return
    if isinstance(strategy, DDPStrategy):
        # An objective need not reach every weight: without a likelihood nothing teaches the posterior's width.
        strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    if os.environ.get(WORKER):
        _end_with_parent()
    if not trainer.is_global_zero:
        # One voice: what there is to say, the first process says.
        logging.getLogger("latentode").setLevel(logging.ERROR)
    is_joined = torch.distributed.is_initialized()
    workers = _start(trainer, strategy, arguments)
    try:
        yield
        strategy.barrier()
        if workers:
            workers.wait()
    except (RuntimeError, torch.distributed.DistError) as error:
        if not _is_loss_of_peer(error):
            raise
        if workers:
            workers.wait(GRACE)
        raise LatentODEError(ALONE) from error
    finally:
        if workers:
            workers.stop()
            for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)
        if torch.distributed.is_initialized() and not is_joined:
            torch.distributed.destroy_process_group()


def check_processes(model: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Refuse to train what gradients do not train in several processes.

    Raises:
        InputError: there is nothing that they could do together.
    """
    if trainer.world_size > 1 and not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"this model has nothing that {trainer.world_size} processes could train together; leave --trainer.devices and "
            "--trainer.num_nodes at 1."
        )


def _start(trainer: pl.Trainer, strategy: ParallelStrategy, arguments: Sequence[str]) -> Workers | None:
    cluster = strategy.cluster_environment
    if not isinstance(cluster, LightningEnvironment) or cluster.creates_processes_externally:
        return None
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if trainer.num_nodes > 1 and missing:
        raise InputError(
            f"training on {trainer.num_nodes} machines needs {', '.join(missing)} in the environment: address and a free port of the "
            "first machine, the same on all, and the number of this one, from 0."
        )
    os.environ |= {
        "MASTER_ADDR": cluster.main_address,
        "MASTER_PORT": str(cluster.main_port),
        "NODE_RANK": str(cluster.node_rank()),
        "WORLD_SIZE": str(trainer.world_size),
        # Lightning takes this to mean that the others are there.
        "LOCAL_RANK": "0",
    }
    traceback = ["--traceback"] if "--traceback" in sys.argv else []
    if trainer.num_nodes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = _interface_towards(cluster.main_address)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
    command = [sys.executable, "-m", "latentode.cli", *arguments, *traceback]
    return Workers(command, trainer.num_devices - 1)


def _interface_towards(address: str) -> str | None:
    """Give the network interface by which an address is reached; None where that cannot be told.

    Left to itself gloo takes the one of the host's own name, which often is the loopback and leads nowhere else.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Nothing is sent: connecting a datagram socket only asks for the way.
            probe.connect((address, 9))
            own = probe.getsockname()[0]
            if fcntl is None:
                return None
            for _, name in socket.if_nameindex():
                try:
                    held = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name[:15].encode()))[20:24]
                except OSError:
                    continue  # it has no address
                if socket.inet_ntoa(held) == own:
                    return name
    except OSError:
        return None
    return None


def _is_loss_of_peer(error: Exception) -> bool:
    """Tell the errors of a connection whose other end is gone: gloo's are known by their text alone."""
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))
