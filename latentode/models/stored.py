"""What a checkpoint says of a fit, taken for what it is only once it is of the right type and agrees with itself.

A checkpoint may come from anywhere. Its values are looked at here, in one place, so that what comes later need not doubt them: a list that
is one entry short is refused when a run is loaded, and not by an index that fails in the middle of a forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentode.data.plain import check_fields, fits, is_finite, shorten
from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.data.seen import Seen
from latentode.data.settings import PERIODS, DataSettings
from latentode.data.windows import Spans
from latentode.data.zones import check_zone
from latentode.errors import InputError


@dataclass(frozen=True)
class Stored:
    """What stands in a checkpoint beside the networks; see `FittedModel`."""

    schema: Schema
    scaler: Scaler
    settings: DataSettings
    spans: Spans
    digest: str
    seed: int
    naive_error: tuple[float, ...] | None
    target_channels: tuple[int, ...] | None
    fit: dict[str, Any]
    seen: Seen | None

    @classmethod
    def read(cls, plain: dict[str, Any], seen: Any) -> Stored:
        """Take it from `FittedModel.to_plain`, and from the pair of tensors that tells what was seen.

        Raises:
            InputError: something is missing, of another type, or does not agree with the rest.
        """
        schema = _read_schema(_field(plain, "schema", dict))
        n_channels = len(schema.channels)
        # A run of an older version has none of the last four.
        naive_error, targets = plain.get("naive_error"), plain.get("target_channels")
        if naive_error is not None and not (fits(naive_error, list[float]) and len(naive_error) == n_channels):
            raise InputError("naive_error is not one number per channel.")
        if targets is not None and not _is_choice(targets, n_channels):
            raise InputError("target_channels are not positions of channels.")
        fit = plain.get("fit") or {}
        if not fits(fit, dict[str, str | float | None]):
            raise InputError("fit does not hold numbers and texts by name.")
        return cls(
            schema,
            _read_scaler(_field(plain, "scaler", dict), schema),
            DataSettings(**check_fields(DataSettings, plain.get("settings"), "settings")),
            _read_spans(plain.get("spans")),
            _field(plain, "digest", str),
            _field(plain, "seed", int),
            None if naive_error is None else tuple(naive_error),
            None if targets is None else tuple(targets),
            fit,
            _read_seen(seen, schema),
        )


def _field(plain: dict[str, Any], name: str, kind: type) -> Any:
    if not fits(plain.get(name), kind):
        raise InputError(f"{name} is {shorten(plain.get(name))}.")
    return plain[name]


def _is_choice(positions: Any, n: int) -> bool:
    if not positions:
        return False
    return fits(positions, list[int]) and len({*positions}) == len(positions) and all(0 <= i < n for i in positions)


def _read_schema(plain: dict[str, Any]) -> Schema:
    schema = Schema.from_dict(check_fields(Schema, plain, "schema"))
    columns = [*schema.channels, *schema.static_columns, *schema.known_columns, schema.time_column]
    columns += [] if schema.id_column is None else [schema.id_column]
    of_channels = (schema.target_channels, schema.log_channels, schema.count_channels, schema.bounded_channels)
    is_sound = (
        len(schema.target_channels) > 0
        and len({*columns}) == len(columns)
        and all({*names} <= {*schema.channels} and len({*names}) == len(names) for names in of_channels)
        and len(schema.categories) == len(schema.static_categories)
        and len(schema.channel_bounds) == len(schema.bounded_channels)
        and all(is_finite(low) and is_finite(high) and low < high for low, high in schema.channel_bounds)
        and {*schema.calendar} <= {*PERIODS}
        and not (schema.time_kind == "number" and (schema.time_zone or schema.calendar))
    )
    if not is_sound:
        raise InputError("the columns of the schema do not agree with each other.")
    if schema.time_zone is not None:
        check_zone(schema.time_zone)
    return schema


def _read_spans(plain: Any) -> Spans:
    spans = Spans(**check_fields(Spans, plain, "spans"))
    if not is_finite(spans.horizon) or spans.horizon <= 0:
        raise InputError(f"spans: horizon is {shorten(spans.horizon)}.")
    if spans.history is not None and not (is_finite(spans.history) and spans.history > 0):
        raise InputError(f"spans: history is {shorten(spans.history)}.")
    return spans


def _read_scaler(plain: dict[str, Any], schema: Schema) -> Scaler:
    try:
        scaler = Scaler.from_dict(plain)
    except Exception as error:
        raise InputError(f"scaler cannot be read ({error!r}).") from error
    n, found = len(schema.channels), scaler.channel_map
    spread = scaler.spread()
    per_column = [(scaler.mean, scaler.std, n), (spread.centre, spread.size, n)]
    per_column.append((scaler.statics.centre, scaler.statics.size, len(schema.static_numbers)))
    per_column.append((scaler.known.centre, scaler.known.size, len(schema.known_columns)))
    is_sound = (
        all(_is_spread(centre, size, width) for centre, size, width in per_column)
        and scaler.n_values.shape == (n,)
        and bool((scaler.n_values >= 0).all())
        and scaler.is_flat.shape in ((n,), (0,))
        and is_finite(scaler.time_scale)
        and scaler.time_scale > 0
    )
    if is_sound and found is not None:
        links = found.links
        is_sound = found.limit > 0 and all(
            x.shape == (n,) for x in (links.is_log, links.is_count, links.low, links.high)
        )
    if not is_sound:
        raise InputError("the scaler does not agree with the columns.")
    return scaler


def _is_spread(centre: np.ndarray, size: np.ndarray, n: int) -> bool:
    if not centre.shape == size.shape == (n,):
        return False
    return bool(np.isfinite(centre).all() and np.isfinite(size).all() and (size > 0).all())


def _read_seen(pair: Any, schema: Schema) -> Seen | None:
    if pair is None:
        return None
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(x, Tensor) for x in pair):
        raise InputError("seen is no pair of tensors.")
    names, until = pair
    kind = torch.float64 if schema.time_kind == "number" else torch.int64
    is_sound = names.dtype == torch.int64 and until.dtype == kind and names.ndim == 1 and names.shape == until.shape
    if not is_sound or len(names) == 0 or bool((names[1:] < names[:-1]).any()):
        raise InputError("seen does not name series and times.")
    return Seen(names.numpy(), until.numpy())
