"""What is read off a history without learning: the smoothed course against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.errors import InputError
from latentode.models import AttentionEncoder
from latentode.models.history import CLAMP, DRAW, smooth

N = 5


def by_hand(batch, n_lags):
    lags = np.linspace(0, 1, n_lags)
    course = np.zeros((len(batch), batch.n_channels, 2 * n_lags))
    for b in range(len(batch)):
        seen = batch.token_observed[b]
        time, value, channel = (x[b][seen].numpy() for x in (batch.token_time, batch.token_value, batch.token_channel))
        for c in range(batch.n_channels):
            for k, lag in enumerate(lags):
                weight = np.exp(-0.5 * ((time[channel == c] + lag) / lags[1]) ** 2)
                total = (weight * np.clip(value[channel == c], -CLAMP, CLAMP)).sum()
                course[b, c, k] = total / (weight.sum() + DRAW)
                course[b, c, n_lags + k] = np.log1p(weight.sum())
    return course


def test_the_course_is_a_weighted_mean_at_every_lag(prepared):
    batch = replace(prepared.batch, token_value=4 * prepared.batch.token_value)
    assert (batch.token_value.abs() > CLAMP).any()
    np.testing.assert_allclose(smooth(batch, N).numpy(), by_hand(batch, N), rtol=1e-4, atol=1e-5)


def test_padding_does_not_touch_the_course(prepared):
    batch = prepared.batch
    assert not batch.token_observed.all()
    spoilt = torch.where(batch.token_observed, batch.token_value, 1e6)
    torch.testing.assert_close(smooth(replace(batch, token_value=spoilt), N), smooth(batch, N), rtol=0, atol=0)


def test_a_channel_without_values_has_the_training_mean_at_no_weight(prepared):
    batch = prepared.batch
    unseen = replace(batch, token_observed=batch.token_observed & (batch.token_channel != 1))
    course = smooth(unseen, N)
    assert (course[:, 1] == 0).all()
    torch.testing.assert_close(course[:, [0, 2]], smooth(batch, N)[:, [0, 2]], rtol=0, atol=0)


def test_a_negative_number_of_lags_is_refused():
    with pytest.raises(InputError, match="n_lags is -1"):
        AttentionEncoder(n_lags=-1)
