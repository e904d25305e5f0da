"""Tables to batches; knows nothing of models.

Names are loaded on first use: reading and describing a table costs no torch, only `Batch` and `WindowReader` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentode.lazy import on_first_use

if TYPE_CHECKING:
    from latentode.data.batch import Batch, WindowReader
    from latentode.data.describe import Description
    from latentode.data.scaling import Scaler
    from latentode.data.schema import Report, Schema
    from latentode.data.settings import DataSettings
    from latentode.data.tables import Queries, Table, read_queries, read_table
    from latentode.data.windows import Split, Windows

__all__ = [
    "Batch",
    "DataSettings",
    "Description",
    "Queries",
    "Report",
    "Scaler",
    "Schema",
    "Split",
    "Table",
    "WindowReader",
    "Windows",
    "read_queries",
    "read_table",
]

_HOMES = {
    "Batch": "latentode.data.batch",
    "DataSettings": "latentode.data.settings",
    "Description": "latentode.data.describe",
    "Queries": "latentode.data.tables",
    "Report": "latentode.data.schema",
    "Scaler": "latentode.data.scaling",
    "Schema": "latentode.data.schema",
    "Split": "latentode.data.windows",
    "Table": "latentode.data.tables",
    "WindowReader": "latentode.data.batch",
    "Windows": "latentode.data.windows",
    "read_queries": "latentode.data.tables",
    "read_table": "latentode.data.tables",
}

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
