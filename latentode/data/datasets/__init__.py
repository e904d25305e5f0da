"""Data sets by name: one file per data set, one line in the table.

A data set is a module with a docstring that says where the data come from, under which licence and what every column is, and with
`PROTOCOLS`, the published rules under which it is scored, the default first. A synthetic one also has its `SYSTEM` (or `SYSTEMS`, one per
protocol), which can be observed otherwise (`latentode.data.simulation`); one that is bundled has `path()`.
"""

from __future__ import annotations

from types import ModuleType

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
