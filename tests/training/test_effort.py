"""What solving the field costs: logged every epoch, warned of where it grows, and less while training is young."""

from __future__ import annotations

import csv
import logging

import pytest
import torch

from latentode.data.settings import DataSettings
from latentode.models import Dynamics, LatentODE, MLPField
from latentode.training import FitSettings, fit_network
from latentode.training.callbacks import NFE_GROWTH
from tests.data.tables import make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=48, batch_size=16)  # 3 steps per epoch


class ClosedForm(Dynamics):
    """A state that rests."""

    def setup(self, schema, latent_size, context_size):
        pass

    def forward(self, z0_BD, t0_B, t_BQ, context_BE):
        return z0_BD[:, None].expand(-1, t_BQ.shape[1], -1)


class Costly(ClosedForm):
    """Tells what a solve has cost as a script has it: `(least, most)` per epoch, and hears how far training is."""

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.heard = []

    def settings(self):
        return {}

    def at_progress(self, fraction):
        self.heard.append(fraction)

    def forward(self, z0_BD, t0_B, t_BQ, context_BE):
        if self.training:
            least, most = self.script[min(len(self.heard), len(self.script)) - 1]
            self.nfe = torch.linspace(least, most, len(z0_BD)).round().long()
        return super().forward(z0_BD, t0_B, t_BQ, context_BE)


class Own(LatentODE):
    """Writes itself down without its parts, which are of the test."""

    def settings(self):
        return {"latent_size": self.latent_size}


def fit(dynamics, folder, n_epochs, model=LatentODE):
    network = model(dynamics=dynamics, latent_size=4)
    fit_settings = FitSettings(max_epochs=n_epochs, device="cpu")
    fit_network(network, SETTINGS, fit_settings, folder, data=make_table(n_series=2), show_progress=False)
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_has_the_mean_and_the_most_evaluations_of_every_epoch(tmp_path):
    rows = fit(MLPField(8), tmp_path, 2)
    for row in rows:
        assert 4 < float(row["nfe"]) <= float(row["nfe_max"])
        assert float(row["nfe_max"]) == int(float(row["nfe_max"]))


def test_mean_and_largest_are_over_samples_and_batches(tmp_path):
    dynamics = Costly([(10, 10), (20, 30)])
    # The first call of `at_progress` is at the start of training, the second at that of the first epoch.
    rows = fit(dynamics, tmp_path, 2, Own)
    assert float(rows[0]["nfe"]) == pytest.approx(25, abs=0.1)
    assert float(rows[0]["nfe_max"]) == 30
    assert dynamics.heard == [0.0, 0.0, 0.5]


def test_a_closed_form_has_no_evaluations(tmp_path):
    (row,) = fit(ClosedForm(), tmp_path, 1, Own)
    assert row["nfe"] == row["nfe_max"] == ""


@pytest.mark.parametrize(("last", "n_warnings"), [(NFE_GROWTH * 20 - 1, 0), (NFE_GROWTH * 20 + 2, 1)])
def test_a_rise_is_warned_of_once(tmp_path, caplog, last, n_warnings):
    # The first epoch is not what others are measured by.
    script = [(5, 5), (5, 5), (20, 20), (21, 21), (last, last), (2 * last, 2 * last) if n_warnings else (last, last)]
    fit(Costly(script), tmp_path, 5, Own)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == n_warnings
    if warnings:
        assert "epoch 4" in warnings[0]
        assert "loosen its rtol" in warnings[0]
