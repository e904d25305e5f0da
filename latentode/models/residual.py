"""What every model shares that adds a residual to a base: season, base, unit, what validation chooses, companion, intervals.

A network is one or more paths (`interfaces.Path`) from a history to the distribution of that residual; which path, a model says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.baselines.linear import Moments, base_features, collect, least_squares, moments_of
from latentode.models.baselines.shrunk import sum_moments
from latentode.models.conformal import CalibratedModel, Calibration
from latentode.models.copula import Copula
from latentode.models.cross_fit import Base, CrossFitted, check_base
from latentode.models.distributions import about, affine, pool
from latentode.models.interfaces import Frame, Path
from latentode.models.objectives import Mean, sum_of_means
from latentode.models.season import Season
from latentode.models.smoothing import Smoother
from latentode.models.stack import Stack
from latentode.models.thinning import thin
from latentode.models.validation import MIN_UNIT, block_of, choose_companion, choose_on_validation

# Of more, a stack takes long to fit (30 s on the 7,190 windows of PhysioNet 2012), and the network is ahead of a ridge without it.
FEW_WINDOWS = 4_000
MIN_THINNED = 500  # training targets of a channel; of one with fewer no value is hidden in training


@dataclass(frozen=True)
class Reading:
    """A batch as base and network read it.

    Attributes:
        batch: without the seasons.
        features: what the base weighs at every target, `(B, M, F)`: last value, history mean and, where there is one, what a baseline says.
        season: what left the targets, `(B, M)`.
    """

    batch: Batch
    features: Tensor
    season: Tensor


class ResidualModel(CalibratedModel):
    """Forecasts `base + unit * residual`: a network's part is the residual, and it starts at 0.

    The base is a blend, per channel, of last value, history mean and training mean, fitted by least squares before training, of a series
    whose seasons by the calendar were taken out (`Season`), or another baseline, see `cross_fit.py`. The unit is the deviation of what it
    leaves. An untrained model *is* its base, and validation decides per channel how much of the residual is kept. Of few windows a
    `Stack` is fitted beside it, and stands where validation has no evidence for the network.

    Args:
        path: from a history to the residual; it has no parameters yet.
        base: "blend", another baseline (its short name, or one with settings of its own), or None for the network alone.
        balance: how far channels count alike in the loss, however many values they have: 0, every value does; 1, every channel.
        thinning: in training, most of the share of a history's values that are hidden, see `thinning.py`; 0: none ever are.
        n_members: paths, which differ by their first weights and their dropout; the forecast is what they say together
            (`distributions.pool`). Time and memory grow with them.
        has_companion: whether a model on the blend has a `Stack` beside it; of more than `FEW_WINDOWS` training windows, and where there is
            no validation to choose by, it is left out, and a run says so.

    Raises:
        InputError: a setting is out of its range, or the base is no baseline.
    """

    base_weight: Tensor
    unit: Tensor
    residual_weight: Tensor
    loss_weight: Tensor
    companion_share: Tensor
    n_targets: Tensor

    def __init__(
        self,
        path: Path,
        *,
        base: Base = "blend",
        balance: float = 0.5,
        thinning: float = 0.0,
        n_members: int = 1,
        has_companion: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= balance <= 1:
            raise InputError(
                f"balance is {balance}; give a number from 0 (every value counts the same) to 1 (every channel)."
            )
        if not 0 <= thinning < 1:
            raise InputError(f"thinning is {thinning}; give a share from 0 up to, but not including, 1.")
        if n_members < 1:
            raise InputError(f"n_members is {n_members}; a model has one member at least.")
        # In a tuple, since what is only a setting must not be one of the model's own modules.
        self._base = (check_base(base),)
        self.baseline: CrossFitted | None = None
        self.balance = balance
        self.thinning = thinning
        self.n_members = n_members
        self.has_companion = has_companion and base == "blend"
        self.companion: Stack | None = None
        # Copies without parameters: these are made, and drawn, in `setup`. The first path has the very parts that were given.
        self.paths: Sequence[Path] = nn.ModuleList([path, *(deepcopy(path) for _ in range(n_members - 1))])  # type: ignore[assignment]

    @property
    def base(self) -> Base:
        """What the residual is counted from, as it was given."""
        return self._base[0]

    def setup(self, schema: Schema) -> None:
        """Make the parts' parameters and the buffers of the base."""
        for path in self.paths:
            path.setup(schema)
        n_channels = len(schema.channels)
        if self.base not in (None, "blend"):
            self.baseline = CrossFitted(self.base)
            self.baseline.setup(schema)
        # Of last value and history mean, and behind them, where there is one, of another baseline.
        first = [0.0, 0.0] if self.base is None else [1.0, 0.0] if self.baseline is None else [0.0, 0.0, 1.0]
        self.register_buffer("base_weight", torch.tensor(first).repeat(n_channels, 1))
        self.register_buffer("unit", torch.ones(n_channels))
        self.register_buffer("residual_weight", torch.ones(n_channels))
        self.register_buffer("loss_weight", torch.ones(n_channels))
        # Of training alone, for which `prepare` fills it.
        self.register_buffer("n_targets", torch.zeros(n_channels), persistent=False)
        if self.has_companion:
            self.companion = Stack()
            self.companion.setup(schema)
            self.register_buffer("companion_share", torch.zeros(n_channels))
        self.season = Season(schema.calendar if self.base is not None else (), n_channels)
        self.calibration = Calibration(n_channels)
        self.smoother = Smoother(n_channels)

    def prepare(self, training: Iterable[Batch], validation: Sequence[Batch] = ()) -> None:
        """Fit companion and base on the training windows; take the deviation of what the base leaves, out of fold, as the unit."""
        if self.companion is not None:
            training, are_few = _count(training, FEW_WINDOWS)
            if are_few and validation:
                self.companion.prepare(training)
            else:
                self.has_companion, self.companion = False, None
                del self.companion_share
        if self.baseline is not None:
            training = list(training)
            self.baseline.prepare(training, validation)
        adjusted = self.season.fit(training)
        for path in self.paths:
            adjusted = path.watch(adjusted)
        moments = self._moments(training, adjusted)
        known = moments.count > 0
        if self.base == "blend":
            self.base_weight.copy_(torch.where(known[:, None], least_squares(moments), self.base_weight.double()))
        left = moments.squared_error(self.base_weight.double()).sqrt().clamp(min=MIN_UNIT)
        self.unit.copy_(torch.where(known, left, 1.0))
        # Between counting every value and counting every channel the same: rare channels teach, but do not drown the rest.
        weight = moments.count.clamp(min=50) ** -self.balance
        weight = weight * moments.count.sum() / (weight * moments.count).sum().clamp(min=1e-9)
        # A channel without a training target was taught nothing: what a network says of it is noise, so that it stays with its base.
        self.loss_weight.copy_(torch.where(known, weight, 0.0))
        self.residual_weight.copy_(known)
        self.n_targets.copy_(moments.count)

    def _moments(self, training: Iterable[Batch], adjusted: Iterable[Batch]) -> Moments:
        if self.baseline is None:
            # Of a stream the windows come by once.
            return collect(adjusted)
        # Side by side with the adjusted ones, which are drawn only so that decoders see them pass.
        readings = (self.read(batch, out_of_fold=True) for batch, _ in zip(training, adjusted, strict=True))
        return sum_moments(moments_of(reading.features, reading.batch) for reading in readings)

    def error_unit(self) -> Tensor:
        """Give the deviation of what the base leaves in training."""
        return self.unit

    def choose(self, validation: Sequence[Batch]) -> None:
        """Let validation decide, per channel, on the base, on the weight of the residual, on the companion's share and on the width."""
        if self.baseline is not None:
            self.baseline.choose(validation)
        choice = choose_on_validation(self, validation)
        self.base_weight.copy_(choice.base_weight)
        self.residual_weight.copy_(torch.where(self.loss_weight > 0, choice.residual_weight, 0.0))
        error = choice.error
        if self.companion is not None:
            self.companion.choose(validation)
            said = [(batch, self.companion.raw(batch).mean) for batch in validation]
            other = torch.cat([(batch.target_value - mean)[batch.target_observed] for batch, mean in said]).to(error)
            block = torch.cat([block_of(batch)[batch.target_observed] for batch in validation])
            self.companion_share.copy_(choose_companion(error, other, choice.channel, block, len(self.unit)))
            error = torch.lerp(error, other, self.companion_share[choice.channel].to(error))
        self.calibration.fit_width(error / choice.std, choice.channel, choice.lead)

    def calibrate(self, validation: Iterable[Batch]) -> None:
        """Choose on validation, fit the intervals there, and then what is said of values inside a history."""
        batches = list(validation)
        super().calibrate(batches)
        self.smoother.fit(self.raw, self.season.adjust, batches)

    def smooth(self, batch: Batch) -> Distribution:
        """Give every target `(B, M)` of a batch whose queries lie among its tokens.

        Raises:
            InputError: validation had too few values to learn it from.
        """
        if not self.smoother.is_fitted:
            raise InputError(
                "the model was fitted with too few values in validation to say what lies inside a history; ask for times after the "
                "origin, or hold out more and fit again."
            )
        return self.smoother(batch, self.raw, self.season.adjust)

    def dependence(self, *, is_smoothed: bool = False) -> Copula | None:
        """Give how what is said of the targets of one series hangs together; None where validation did not tell it."""
        found = (self.smoother if is_smoothed else self).calibration.copula
        return found if found.is_fitted else None

    def remarks(self) -> list[str]:
        """Say in how many channels the companion forecasts in the network's place."""
        if self.companion is None:
            return []
        taught = self.loss_weight > 0
        alone = int((self.companion_share[taught] == 1).sum())
        if alone == 0:
            return []
        return [
            f"In {alone} of {int(taught.sum())} channels validation had no evidence that the network forecasts better than a ridge "
            "regression with a seasonal profile, which forecasts there; the network gives the widths "
            "(has_companion=False: it alone)."
        ]

    def raw(self, batch: Batch) -> Distribution:
        """Forecast every target `(B, M)`, in training deviations around the training mean."""
        reading = self.read(batch)
        frame, channel = self.frame(reading), batch.target_channel
        residual = self.residual(reading.batch, frame)
        place = frame.base + reading.season
        mean = self.residual_weight[channel] * residual.mean
        if self.companion is not None and (torch.compiler.is_exporting() or bool(self.companion_share.any())):
            other = (self.companion.raw(batch).mean - place) / frame.unit
            mean = torch.lerp(mean, other, self.companion_share[channel])
        # Weight and share are on the mean alone: the distribution about it keeps its shape.
        return affine(about(residual, mean, self.calibration.width_at(batch)), place, frame.unit)

    def residual(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast what the base leaves of every target `(B, M)` in units of `unit`, all members together, without the season."""
        return pool([path(batch, frame) for path in self.paths])

    def read(self, batch: Batch, *, out_of_fold: bool = False) -> Reading:
        """Take the seasons out of a batch, and give what the base weighs at every target.

        Args:
            batch: of windows.
            out_of_fold: whether the baseline must not have been fitted on the window's part of training.
        """
        adjusted, season = self.season.adjust(batch)
        features = base_features(adjusted)
        if self.baseline is not None:
            # Of the series as it is: a baseline has its own way with seasons.
            said = self.baseline.out_of_fold(batch) if out_of_fold else self.baseline(batch)
            features = torch.cat([features, (said - season)[..., None]], -1)
        return Reading(adjusted, features, season)

    def frame(self, reading: Reading) -> Frame:
        """Give base and unit of every target."""
        channel = reading.batch.target_channel
        return Frame((reading.features * self.base_weight[channel]).sum(-1), self.unit[channel])

    def lesson(self, batch: Batch) -> Batch:
        """Give what a window teaches: the window, in training with some of its history hidden."""
        return thin(batch, self.thinning if self.training else 0.0, self.n_targets < MIN_THINNED)

    def loss(self, batch: Batch) -> Tensor:
        """Give the objective in units of what the base leaves."""
        return sum_of_means(self.loss_means(batch))

    def loss_means(self, batch: Batch) -> list[Mean]:
        """Give what the objective is the sum of: each member's own, averaged, so that members do not learn as one."""
        reading = self.read(self.lesson(batch), out_of_fold=True)
        frame = self.frame(reading)
        weight = self.loss_weight[reading.batch.target_channel]
        # Members read the same batch, so that each part has the same count in all of them.
        parts = zip(*(path.loss_means(reading.batch, frame, weight) for path in self.paths), strict=True)
        return [Mean(torch.stack([mean.total for mean in part]).mean(), part[0].count) for part in parts]


def _count(batches: Iterable[Batch], at_most: int) -> tuple[Iterable[Batch], bool]:
    """Say whether there are at most so many windows; give the batches back, of which no more were drawn than that takes."""
    kept, n, source = [], 0, iter(batches)
    for batch in source:
        kept.append(batch)
        n += len(batch)
        if n > at_most:
            return chain(kept, source), False
    return kept, True
