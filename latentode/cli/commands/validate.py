"""`latentode validate`: the validation error of a checkpoint, by the options of `fit`."""

from __future__ import annotations

from .fit import add_options, run, run_lightning

SUMMARY = "give the validation error of a checkpoint"
EXAMPLE = "latentode validate --config runs/mine/config.yaml --ckpt_path runs/mine/best.ckpt"

__all__ = ["EXAMPLE", "SUMMARY", "add_options", "run", "run_lightning"]
