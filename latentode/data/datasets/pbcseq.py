"""Blood values of 312 patients with primary biliary cirrhosis, at irregular visits: what `latentode demo` fits.

A Mayo Clinic trial followed each patient for up to 14 years. The protocol asked for visits at 6 and 12 months and
then once a year; extra visits were made when a patient fared worse, and not every visit had every test. So times
are irregular, cells are empty, and both carry meaning.

Columns (1945 rows, one per patient and visit; an empty cell = not measured, 12,661 values in all):
    series_id: patient, 1 to 312.
    time: days since registration in the trial, 0 to 5152.
    bili: serum bilirubin, mg/dl.
    chol: serum cholesterol, mg/dl (missing at 821 visits).
    albumin: serum albumin, g/dl.
    alk.phos: alkaline phosphatase, U/l.
    ast: aspartate aminotransferase, U/ml.
    platelet: platelets, thousands per microlitre.
    protime: prothrombin time, seconds.

Source: `pbcseq` of the R package `survival` (T. Therneau), licence LGPL (>= 2): see `pbcseq.LICENSE` beside this file.
Fleming and Harrington, *Counting Processes and Survival Analysis*, Wiley 1991; Murtaugh et al., *Hepatology*
20(1.1):126-134, 1994.

How the file was made: `id` and `day` renamed to `series_id` and `time`, the seven laboratory columns kept, rows
sorted by patient and day, written with at most ten digits (every value as published, no row dropped), compressed
with no time stamp so that it is the same file every time.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from latentode.data.panels import Panel, time_cut
from latentode.data.protocols import Protocol

CHANNELS = ("bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime")


def path() -> Path:
    """Give the path of the bundled CSV, which follows the data contract as it is.

    Returns:
        Path of `pbcseq.csv.gz` in the installed package.

    Example:
        >>> path().name
        'pbcseq.csv.gz'
    """
    # Wheels are unpacked when they are installed, so the resource is a real file.
    return Path(str(resources.files("latentode.data.datasets") / "pbcseq.csv.gz"))


PROTOCOLS: dict[str, Protocol] = {
    "time": time_cut(
        Panel("pbcseq", lambda data_dir: path(), source="this package: the default split of `latentode fit`")
    )
}
