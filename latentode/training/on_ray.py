"""Training over Ray Train: the same fit as `latentode fit`, its processes started and placed by Ray (extra `latentode[ray]`)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentode.errors import InputError, LatentODEError

if TYPE_CHECKING:
    from ray.train import Result


def fit(arguments: Sequence[str], run_dir: Path, *, n_workers: int, uses_gpu: bool = False) -> dict[str, Any]:
    """Run `latentode fit` in workers that Ray places, on the cluster at `RAY_ADDRESS` or else on this machine.

    Every worker reads the table, and the first one writes the run folder: both must be where all machines see them.

    Args:
        arguments: of `latentode fit`, without those of the engine.
        run_dir: of the run.
        n_workers: processes that train together.
        uses_gpu: whether each of them has a GPU.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: Ray is not installed.
        LatentODEError: a worker failed; the message is its own.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise InputError("--engine ray needs Ray; install it with pip install 'latentode[ray]'.") from error

    started = not ray.is_initialized()
    if started:
        _join_or_start(n_workers)
    run_dir.mkdir(parents=True, exist_ok=True)
    # Ray looks for a folder that all workers see, and leaves one run's records in it.
    records = run_dir.resolve() / ".ray"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"arguments": list(arguments), "run_dir": str(run_dir.resolve()), "folder": str(Path.cwd())},
        scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=uses_gpu),
        run_config=RunConfig(storage_path=str(records), failure_config=FailureConfig(max_failures=0)),
    )
    try:
        _run(trainer)
    finally:
        shutil.rmtree(records, ignore_errors=True)
        if started:
            ray.shutdown()
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def _join_or_start(n_workers: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    # As many as are asked for, however few cores there are: a worker that finds no place would wait for ever.
    n_cores = max(os.cpu_count() or 1, n_workers)
    ray.init(address="local", num_cpus=n_cores, include_dashboard=False, **quiet)


def _run(trainer: Any) -> Result:
    from ray.train import TrainingFailedError

    try:
        return trainer.fit()
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", None) or {0: error}
        # Of those that failed because another one did, none says why.
        causes = [getattr(failure, "cause", None) or failure for _, failure in sorted(failures.items())]
        own = [cause for cause in causes if isinstance(cause, LatentODEError)] or causes
        raise LatentODEError(" ".join(str(own[0]).split())[:500]) from error


def _work(config: dict[str, Any]) -> None:
    """Do what a worker does."""
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from latentode.training.command import run_command

    os.chdir(config["folder"])  # relative paths are the user's
    run_command(
        "fit",
        [*config["arguments"], "--run_dir", config["run_dir"]],
        trainer={
            "strategy": RayDDPStrategy(),
            "plugins": [RayLightningEnvironment()],
            "devices": "auto",
            "num_nodes": 1,
        },
    )
