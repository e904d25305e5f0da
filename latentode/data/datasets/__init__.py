"""Data sets by name: one file per data set, one line in the table.

A data set is a module with a docstring that says where the data come from, under which licence and what every column is, and with
`PROTOCOLS`, the published rules under which it is scored, the default first. A synthetic one also has its `SYSTEM` (or `SYSTEMS`, one per
protocol), which can be observed otherwise (`latentode.data.simulation`); one that is bundled has `path()`.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from latentode.data.protocols import Protocol
from latentode.data.simulation import Options, half_to_half
from latentode.errors import InputError, did_you_mean

from . import (
    bouncing_ball,
    damped_oscillators,
    double_well,
    human_activity,
    lorenz63,
    lorenz96,
    lotka_volterra,
    mimic3,
    mimic4,
    pbcseq,
    periodic_mixtures,
    pharmacokinetics,
    physiome,
    physionet2012,
    rdatasets,
    spirals,
    time_imm,
    ushcn,
    van_der_pol,
)

DATASETS: dict[str, ModuleType] = {
    "bouncing_ball": bouncing_ball,
    "damped_oscillators": damped_oscillators,
    "double_well": double_well,
    "human_activity": human_activity,
    "lorenz63": lorenz63,
    "lorenz96": lorenz96,
    "lotka_volterra": lotka_volterra,
    "mimic3": mimic3,
    "mimic4": mimic4,
    "pbcseq": pbcseq,
    "periodic_mixtures": periodic_mixtures,
    "pharmacokinetics": pharmacokinetics,
    "physiome": physiome,
    "physionet2012": physionet2012,
    "rdatasets": rdatasets,
    "spirals": spirals,
    "time_imm": time_imm,
    "ushcn": ushcn,
    "van_der_pol": van_der_pol,
}


def protocols_of(name: str, **observing: Any) -> dict[str, Protocol]:
    """Give the protocols of a data set by name, the default first.

    Args:
        name: an entry of `DATASETS`.
        observing: of a synthetic data set, fields of `latentode.data.simulation.Options` that differ from its own (`missing`, `sampling`).

    Raises:
        InputError: no such data set, an option that it does not allow, or options for a data set that is not synthetic.

    Example:
        >>> list(protocols_of("lorenz63", missing=0.5, sampling="bursty"))
        ['half', 'lyapunov']
    """
    if name not in DATASETS:
        raise InputError(
            f"there is no data set {name!r}{did_you_mean(name, DATASETS)}; there are {', '.join(DATASETS)}."
        )
    module = DATASETS[name]
    if not observing:
        return module.PROTOCOLS
    if not hasattr(module, "SYSTEM") and not hasattr(module, "SYSTEMS"):
        raise InputError(f"{name} is not simulated, so {', '.join(observing)} cannot be set; leave it out.")
    unknown = [option for option in observing if option not in Options.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"there is no option {unknown[0]!r}{did_you_mean(unknown[0], Options.__dataclass_fields__)}; "
            f"there are {', '.join(Options.__dataclass_fields__)}."
        )
    systems = getattr(module, "SYSTEMS", None) or {"half": module.SYSTEM}
    return {
        key: half_to_half(systems[key], replace(systems[key].options, **observing), name=key, average=protocol.average)
        for key, protocol in module.PROTOCOLS.items()
    }
