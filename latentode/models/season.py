r"""What the calendar alone says of a channel: profiles over the day, the week and the year, taken out of a series before anything reads it.

A model that forecasts :math:`y(t) - \sum_p s_p(\text{phase of } t \text{ in period } p)` from a history adjusted in the same way, and
puts the season back, need not learn from a few hundred windows what a mean by hour, weekday or fortnight says. It is the seasonal
adjustment of official statistics, with the profile of all of training in the place of a running one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.models.baselines.linear import collect, least_squares
from latentode.models.baselines.seasonal import CALENDAR, N_BINS, fit_profile, phase_bin

# The shortest first: bins of a week are shorter than a day, and would else take some of the day's profile, each day's another part.
PERIODS = dict(zip(("hour", "weekday", "season"), CALENDAR, strict=True))


class Season(nn.Module):
    """Takes seasons out of a batch; a channel has a profile only where it held for the half of training that it was not fitted on.

    Args:
        calendar: periods of dates that stand for election, of `latentode.data.settings.PERIODS`; none: nothing is ever taken out.
        n_channels: `C`.

    Attributes:
        profile: what each period adds, by channel and bin of its phase, `(P, C, bins)`; zeros where it does not hold.
    """

    profile: Tensor

    def __init__(self, calendar: Sequence[str], n_channels: int) -> None:
        super().__init__()
        self.periods = tuple(period for name, period in PERIODS.items() if name in calendar)
        # Without a calendar a run holds nothing of it.
        self.register_buffer(
            "profile", torch.zeros(len(self.periods), n_channels, N_BINS), persistent=bool(self.periods)
        )

    def fit(self, training: Iterable[Batch]) -> Iterable[Batch]:
        """Fit a profile per period, each on what those before it leave; give the batches without them."""
        if not self.periods:
            return training
        batches = list(training)
        for i, period in enumerate(self.periods):
            profile = fit_profile(batches, period, is_centred=True)
            self.profile[i] = torch.where(_holds(batches, period)[:, None], profile, 0.0)
            batches = [_take_out(batch, _at(batch, period, self.profile[i])) for batch in batches]
        return batches

    def adjust(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Take the seasons out of tokens and targets; give the batch and what left the targets `(B, M)`."""
        if not self.periods:
            return batch, torch.zeros_like(batch.target_value)
        at_token, at_target = torch.zeros_like(batch.token_value), torch.zeros_like(batch.target_value)
        for period, profile_CN in zip(self.periods, self.profile, strict=True):
            token, target = _at(batch, period, profile_CN)
            at_token, at_target = at_token + token, at_target + target
        return _take_out(batch, (at_token, at_target)), at_target


def _holds(batches: Sequence[Batch], period: float) -> Tensor:
    """Say for which channels profiles of either half of the origins, in time, lower the blend's error on the other: bool `(C,)`."""
    middle = torch.cat([batch.origin for batch in batches]).median()
    halves = [
        [batch.take(batch.origin <= middle) for batch in batches],
        [batch.take(batch.origin > middle) for batch in batches],
    ]
    halves = [[batch for batch in half if len(batch)] for half in halves]
    gain: Tensor | float = 0.0
    for learnt, held in (halves, reversed(halves)):
        if not learnt or not held:
            return torch.zeros(batches[0].n_channels, dtype=torch.bool, device=middle.device)
        profile = fit_profile(learnt, period, is_centred=True)
        errors = []
        for own in (torch.zeros_like(profile), profile):
            taken = [collect([_take_out(batch, _at(batch, period, own)) for batch in half]) for half in (learnt, held)]
            errors.append(taken[1].count * taken[1].squared_error(least_squares(taken[0])))
        gain = gain + errors[0] - errors[1]
    return torch.as_tensor(gain) > 0


def _at(batch: Batch, period: float, profile_CN: Tensor) -> tuple[Tensor, Tensor]:
    """Give what a profile says of tokens and of targets."""
    token = profile_CN[batch.token_channel, phase_bin(batch, batch.token_time, period)]
    target = profile_CN[batch.target_channel, phase_bin(batch, batch.lead_time(), period)]
    return token, target


def _take_out(batch: Batch, season: tuple[Tensor, Tensor]) -> Batch:
    at_token, at_target = season
    return replace(
        batch,
        token_value=torch.where(batch.token_observed, batch.token_value - at_token, 0.0),
        target_value=torch.where(batch.target_observed, batch.target_value - at_target, 0.0),
    )
