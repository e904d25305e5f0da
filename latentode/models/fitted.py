"""A fitted model and everything that forecasting needs, as one file of plain values and tensors.

Loads with `torch.load(..., weights_only=True)`: a checkpoint from a stranger runs no code.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from latentode.data.batch import Batch, WindowReader
from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.data.seen import Seen
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.windows import Spans, Windows
from latentode.errors import RunError
from latentode.files import write_whole
from latentode.metrics import METRICS, SHARES, PitCounts, Totals, horizon_edges, skill_summary
from latentode.models.conformal import CalibratedModel
from latentode.models.interfaces import ForecastModel, Part
from latentode.models.registry import BASELINES, from_plain, make_model, to_plain
from latentode.models.units import in_error_units
from latentode.progress import track

FORMAT = 2
READ_AT_ONCE = 256  # windows per batch where nothing is learned


@dataclass
class FittedModel:
    """What was fitted and on what.

    Attributes:
        network: the model, set up.
        baselines: by name, fitted on the same data.
        schema, scaler, settings, spans: of the data it was fitted on.
        digest: of the table, so that `evaluate` can tell it again.
        seed: of the fit.
        naive_error: of "last value" on training windows, scaled, per channel: the unit of `mase`; None where it was not measured.
        target_channels: positions of the channels that are forecast; None: those that training saw.
        fit: settings of the fit (`max_epochs`, `learning_rate`, ...), so that a backtest can make the same fit again.
        seen: up to when the fit has read each series; None where that is not known.
    """

    network: ForecastModel
    baselines: nn.ModuleDict
    schema: Schema
    scaler: Scaler
    settings: DataSettings
    spans: Spans
    digest: str
    seed: int
    naive_error: tuple[float, ...] | None = None
    target_channels: tuple[int, ...] | None = None
    fit: dict[str, Any] = field(default_factory=dict)
    seen: Seen | None = None

    @classmethod
    def new(
        cls,
        network: ForecastModel,
        table: Table,
        scaler: Scaler,
        settings: DataSettings,
        spans: Spans,
        seed: int,
        *,
        target_channels: Sequence[int] | None = None,
    ) -> FittedModel:
        """Set a network and the baselines up for the channels of a table; nothing is fitted yet."""
        baselines = nn.ModuleDict({name: make_model(name) for name in BASELINES})
        for module in _members(network, baselines):
            module.setup(table.schema)
        for part in network.modules():
            if isinstance(part, Part):
                part.see_scaling(scaler)
        targets = None if target_channels is None else tuple(target_channels)
        return cls(
            network, baselines, table.schema, scaler, settings, spans, table.digest(), seed, target_channels=targets
        )

    def measure_naive_error(self, training: Iterable[Batch]) -> None:
        """Keep the absolute error of "last value" on training windows; a channel not seen in a history is forecast by its mean."""
        last_value = self.baselines["last_value"]
        totals = Totals.zero(len(self.schema.channels), ("mae",))
        with torch.no_grad():
            for batch in training:
                forecast = in_error_units(last_value(batch), batch.target_channel, self.scaler)
                totals.add(forecast, batch.error_target(), batch.target_channel, batch.target_observed)
        self.naive_error = tuple(totals.per_channel("mae").tolist())

    def calibrate(self, validation: Sequence[Batch]) -> None:
        """Let validation decide what is not learned by gradients, in the model and in the baselines."""
        for module in _members(self.network, self.baselines):
            module.eval()
            module.calibrate(validation)

    def reader(self, table: Table, *, max_history: int | None = None) -> WindowReader:
        """Give the reader that makes this model's batches from a table with its channels; a calendar is that of the model's zone.

        Args:
            table: the data.
            max_history: most values read per window; None: as in the fit.
        """
        ours = replace(table.schema, calendar=self.schema.calendar, time_zone=self.schema.time_zone)
        table = replace(table, schema=ours)
        n_read = self.settings.max_history if max_history is None else max_history
        return WindowReader(table, self.scaler, max_history=n_read, target_channels=self.target_channels)

    def score(
        self,
        table: Table,
        windows: Windows,
        names: Sequence[str] = tuple(METRICS),
        *,
        device: torch.device | str = "cpu",
        n_draws: int = 0,
        is_whole: bool = False,
    ) -> dict[str, Any]:
        """Score the model and the baselines on the same windows.

        Args:
            table: with the channels of the fit.
            windows: to score.
            names: of metrics; `mase` is left out of a run whose naive error was not measured.
            device: where to compute.
            n_draws: of the bootstrap over series; 0: no intervals.
            is_whole: whether every metric is given per channel and bin, too.

        Returns:
            The model's figures (`Totals.summary`, by four bins of the horizon), its `calibration` (`PitCounts.summary`, with `coverage`:
            nominal beside held, and `fitted_on`: see `Calibration.describe`), `n_windows`, and `baselines` by name; `ratio_to_blend`, of
            squared errors; with `n_draws` `intervals` and `against` (`skill_summary`) of the headline errors.
        """
        totals, pit = self.totals(table, windows, names, device=device, per_series=n_draws > 0)
        return {**self.summarise(totals, pit, n_draws=n_draws, is_whole=is_whole), "n_windows": len(windows)}

    def summarise(
        self, totals: dict[str, Totals], pit: dict[str, PitCounts], *, n_draws: int = 0, is_whole: bool = False
    ) -> dict[str, Any]:
        """Give the figures of `score` from the sums of `totals`, in the deviations of this model's training part.

        A channel that was constant in training has no such deviation: it stands among the channels and in no average; `left_out` names it.
        """
        std, flat = torch.from_numpy(self.scaler.std), self.flat_channels()
        left_out = [name for name, is_flat in zip(self.schema.channels, flat.tolist(), strict=True) if is_flat]
        averaged = {name: total.without(flat) for name, total in totals.items()} if left_out else totals
        figures = {}
        for name, total in averaged.items():
            figures[name] = total.summary(self.schema.channels, std, is_whole=is_whole)
            if left_out:
                figures[name]["channels"] = totals[name].summary(self.schema.channels, std)["channels"]
            figures[name]["calibration"] = pit[name].without(flat).summary() | self._stated(name, total)
        totals = averaged
        result = {**figures.pop(""), "baselines": figures, "left_out": left_out}
        if n_draws:
            rivals = {name: total for name, total in totals.items() if name}
            result |= skill_summary(totals[""], rivals, tuple(totals[""].series_sums), n_draws=n_draws)
        if "mse" in result:
            result["ratio_to_blend"] = result["mse"] / max(figures["blend"]["mse"], 1e-12)
        return result

    def _stated(self, name: str, total: Totals) -> dict[str, Any]:
        """Give what the model's intervals promise beside what they hold, over all values, and what the promise rests on."""
        model = self.baselines[name] if name else self.network
        held = [{"nominal": share, "held": total.pooled(key)} for key, share in SHARES.items() if key in total.sums]
        fitted_on = {"fitted_on": model.calibration.describe()} if isinstance(model, CalibratedModel) else {}
        return {"coverage": held, **fitted_on}

    def flat_channels(self) -> Tensor:
        """Say which channels were constant in training, bool `(C,)`; none where all were, since something has to be averaged."""
        flat = torch.from_numpy(self.scaler.is_flat)
        is_target = torch.from_numpy(self.scaler.n_values > 0)
        if len(flat) == 0 or bool((flat | ~is_target).all()):
            return torch.zeros(len(self.schema.channels), dtype=torch.bool)
        return flat

    def totals(
        self,
        table: Table,
        windows: Windows,
        names: Sequence[str] = tuple(METRICS),
        *,
        device: torch.device | str = "cpu",
        per_series: bool = False,
        horizon: float | None = None,
    ) -> tuple[dict[str, Totals], dict[str, PitCounts]]:
        """Give the sums of scores and the PIT counts of the model, under the name "", and of the baselines.

        Args:
            table, windows, names, device: as for `score`.
            per_series: whether the sums of the headline errors are kept per series, too.
            horizon: in table time, of which the bins of lead time are parts; None: that of the fit.
        """
        models: dict[str, Any] = {"": self.network, **dict(self.baselines.items())}
        headline = [name for name in names if METRICS[name].is_headline and METRICS[name].is_error]
        n_series = table.n_series if per_series and headline else 0
        totals = {name: self._no_totals(names, n_series, headline) for name in models}
        pit = {name: PitCounts.zero(len(self.schema.channels)) for name in models}
        # Model time is in fitted horizons.
        per_horizon = self.spans.horizon / (horizon or self.spans.horizon)
        with track("scoring", len(windows), "windows") as advance:
            for batch in read_batches(self.reader(table), windows):
                batch = batch.to(device)
                lead = batch.lead_time() * per_horizon
                targets = (batch.error_target(), batch.target_channel, batch.target_observed)
                with torch.no_grad():
                    for name, model in models.items():
                        forecast = in_error_units(model(batch), batch.target_channel, self.scaler)
                        totals[name].add(forecast, *targets, lead=lead, series=batch.series)
                        pit[name].add(forecast, *targets)
                advance(len(batch))
        return totals, pit

    def _no_totals(self, names: Sequence[str], n_series: int, series_names: Sequence[str]) -> Totals:
        return Totals.zero(
            len(self.schema.channels),
            names,
            edges=horizon_edges(),
            naive_error=None if self.naive_error is None else torch.tensor(self.naive_error, dtype=torch.float64),
            n_series=n_series,
            series_names=series_names,
        )

    def to_plain(self) -> dict[str, Any]:
        """Give all but the tensors as plain values."""
        return {
            "format": FORMAT,
            "network": to_plain(self.network),
            "schema": self.schema.to_dict(),
            "scaler": self.scaler.to_dict(),
            "settings": {f.name: getattr(self.settings, f.name) for f in fields(self.settings)},
            "spans": asdict(self.spans),
            "digest": self.digest,
            "seed": self.seed,
            "naive_error": None if self.naive_error is None else list(self.naive_error),
            "fit": self.fit,
            "target_channels": None if self.target_channels is None else list(self.target_channels),
        }

    def save(self, path: Path, *, extra: dict[str, Any] | None = None) -> None:
        """Write the file whole or not at all; a crash midway leaves what was there before. `extra` holds further plain values."""
        content = {
            **(extra or {}),
            "latentode": self.to_plain(),
            "state_dict": {f"network.{key}": value for key, value in self.network.state_dict().items()},
            "baselines": self.baselines.state_dict(),
            "seen": None if self.seen is None else [torch.from_numpy(x) for x in (self.seen.names, self.seen.until)],
        }
        write_whole(path, lambda part: torch.save(content, part))

    @classmethod
    def load(cls, path: Path, *, allow_modules: Sequence[str] = ()) -> FittedModel:
        """Read what `save` wrote.

        Args:
            path: of the checkpoint.
            allow_modules: modules of own classes that may be imported.

        Raises:
            RunError: the file is cut off, is no checkpoint of latentode, or holds more than plain values.
        """
        content = load_plain(path)
        plain = content.get("latentode") if isinstance(content, dict) else None
        if not isinstance(plain, dict) or "state_dict" not in content:
            raise RunError(f"{path} is no checkpoint of latentode; name a run folder that `latentode fit` wrote.")
        if plain.get("format") != FORMAT:
            raise RunError(
                f"{path} has format {plain.get('format')}, this version reads {FORMAT}; fit the model again."
            )
        if "baselines" not in content:
            raise RunError(f"{path} is of a fit that did not come to its end; fit the model again.")
        try:
            return cls._rebuild(plain, content, allow_modules)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, RunError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{path} does not hold together ({reason}); fit the model again.") from error

    @classmethod
    def _rebuild(cls, plain: dict[str, Any], content: dict[str, Any], allow_modules: Sequence[str]) -> FittedModel:
        schema = Schema.from_dict(plain["schema"])
        network = from_plain(plain["network"], allow_modules)
        baselines = nn.ModuleDict({name: make_model(name) for name in BASELINES})
        for module in _members(network, baselines):
            module.setup(schema)
        prefix = "network."
        network.load_state_dict(
            {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
        )
        baselines.load_state_dict(content["baselines"])
        network.eval()
        baselines.eval()
        settings, scaler = DataSettings(**plain["settings"]), Scaler.from_dict(plain["scaler"])
        # A run of an older version has none of these.
        naive_error, targets = plain.get("naive_error"), plain.get("target_channels")
        return cls(
            network,
            baselines,
            schema,
            scaler,
            settings,
            Spans(**plain["spans"]),
            plain["digest"],
            plain["seed"],
            None if naive_error is None else tuple(naive_error),
            None if targets is None else tuple(targets),
            plain.get("fit", {}),
            None if content.get("seen") is None else Seen(*(x.numpy() for x in content["seen"])),
        )


def _members(network: ForecastModel, baselines: nn.ModuleDict) -> list[ForecastModel]:
    return [network, *(cast(ForecastModel, module) for module in baselines.values())]


def read_batches(reader: WindowReader, windows: Windows, size: int = READ_AT_ONCE) -> Iterable[Batch]:
    """Read windows in batches of like length, in an order that depends on nothing but the windows."""
    order = np.argsort(reader.count_widths(windows), kind="stable")
    for start in range(0, len(order), size):
        yield reader.read(windows.take(order[start : start + size]))


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values, and nothing else.

    Raises:
        RunError: it is not there, is cut off, or holds anything that would run code.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; name a run folder that `latentode fit` wrote.")
    try:
        with warnings.catch_warnings():
            # torch warns of an unusual pickle before it refuses it; the refusal says enough.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(f"{path} holds more than plain values and tensors, so it is not loaded.") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is cut off or is no checkpoint; fit the model again.") from error
