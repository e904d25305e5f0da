"""What every decoder promises, and what each adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.distributions import Normal

from latentode import Forecaster
from latentode.data.tables import read_table
from latentode.errors import InputError
from latentode.metrics import METRICS, cumulative, quantile
from latentode.models import (
    FlowDecoder,
    Frame,
    GaussianDecoder,
    LatentODE,
    MixtureDecoder,
    QuantileDecoder,
    StudentTDecoder,
)
from latentode.models.fitted import FittedModel
from latentode.models.registry import from_plain, to_plain
from latentode.training.task import ForecastingTask
from tests.data.tables import make_frame
from tests.models.conftest import perturb, prepare

DECODERS = {
    "flow": FlowDecoder,
    "gaussian": GaussianDecoder,
    "student t": StudentTDecoder,
    "mixture": MixtureDecoder,
    "quantile": QuantileDecoder,
}
every_decoder = pytest.mark.parametrize("name", DECODERS)
LATENT, CONTEXT = 4, 5


def rounded_frame():
    """Channel x0 takes a handful of values, x1 is copied from row to row half of the time, x2 is not rounded."""
    frame = make_frame(n_series=6, n_rows=40, n_channels=3, share=0.9)
    frame["x0"] = frame["x0"].round()
    rng = np.random.default_rng(0)
    last = frame.groupby("series_id")["x1"].ffill().groupby(frame["series_id"]).shift()
    is_copied = (rng.random(len(frame)) < 0.5) & frame["x1"].notna() & last.notna()
    # Copies of copies: a value stands until the next one that is none.
    fresh = frame["x1"].where(~is_copied).groupby(frame["series_id"]).ffill()
    frame["x1"] = fresh.where(frame["x1"].notna())
    return frame


@pytest.fixture(scope="module")
def rounded():
    return prepare(read_table(rounded_frame()), n=64)


def build(name, prepared, **settings):
    torch.manual_seed(0)
    decoder = DECODERS[name](**settings)
    decoder.setup(prepared.table.schema, LATENT, CONTEXT)
    list(decoder.watch([prepared.batch]))
    return decoder.eval()


def inputs(prepared, seed=0) -> tuple[Tensor, Tensor, Frame]:
    batch = prepared.batch
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*batch.target_row.shape, LATENT, generator=g)
    context = torch.randn(len(batch), batch.n_channels, CONTEXT, generator=g)
    base = torch.randn(batch.target_row.shape, generator=g)
    return z, context, Frame(base, torch.full_like(base, 0.5))


def decode(decoder, prepared):
    z, context, frame = inputs(prepared)
    return decoder(z, prepared.batch, context, frame)


def model(name, prepared):
    torch.manual_seed(0)
    network = LatentODE(decoder=DECODERS[name](hidden_size=16), latent_size=LATENT)
    network.setup(prepared.table.schema)
    network.prepare([prepared.batch])
    return perturb(network)


@every_decoder
def test_untrained_the_mean_is_exactly_0_and_the_deviation_1(name, rounded):
    found = decode(build(name, rounded), rounded)
    assert (found.mean == 0).all()
    # Of a mixture one value in three thousand is at the last value already, however far that is.
    assert torch.allclose(found.stddev, torch.ones_like(found.mean), atol=0.1 if name == "mixture" else 1e-5)


@every_decoder
def test_gradients_are_finite_and_reach_every_parameter(name, rounded):
    decoder = perturb(build(name, rounded))
    z, context, frame = inputs(rounded)
    score = decoder.score(decoder(z, rounded.batch, context, frame), frame.residual(rounded.batch.target_value), 1.0)
    score[rounded.batch.target_observed].mean().backward()
    for key, p in decoder.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert (p.grad != 0).any(), key


@every_decoder
def test_with_beta_1_the_mean_learns_by_the_squared_error_and_by_nothing_else(name, rounded):
    decoder = perturb(build(name, rounded))
    z, context, frame = inputs(rounded)
    forecast = decoder(z, rounded.batch, context, frame)
    forecast.mean.retain_grad()
    target = frame.residual(rounded.batch.target_value)
    decoder.score(forecast, target, 1.0).sum().backward()
    assert torch.allclose(forecast.mean.grad, (forecast.mean - target).detach(), rtol=1e-4, atol=1e-4)


@every_decoder
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_another_beta_weighs_the_squared_error_by_the_deviation(name, rounded, beta):
    decoder = perturb(build(name, rounded))
    z, context, frame = inputs(rounded)
    forecast = decoder(z, rounded.batch, context, frame)
    forecast.mean.retain_grad()
    target = frame.residual(rounded.batch.target_value)
    decoder.score(forecast, target, beta).sum().backward()
    expected = (forecast.mean - target) * forecast.stddev ** (2 * beta - 2)
    assert torch.allclose(forecast.mean.grad, expected.detach(), rtol=1e-3, atol=1e-3)


@every_decoder
def test_the_order_of_targets_does_not_matter(name, rounded):
    decoder = perturb(build(name, rounded))
    z, context, frame = inputs(rounded)
    one = decode(decoder, rounded)
    batch = rounded.batch
    order = torch.randperm(z.shape[1], generator=torch.Generator().manual_seed(1))
    fields = ("target_row", "target_channel", "target_value", "target_observed")
    other = replace(batch, **{key: getattr(batch, key)[:, order] for key in fields})
    two = decoder(z[:, order], other, context, Frame(frame.base[:, order], frame.unit[:, order]))
    assert torch.allclose(two.mean, one.mean[:, order], atol=1e-5)
    assert torch.allclose(two.log_prob(frame.base[:, order]), one.log_prob(frame.base)[:, order], rtol=1e-3, atol=1e-3)


@every_decoder
def test_padding_changes_nothing(name, rounded):
    decoder = perturb(build(name, rounded))
    z, context, frame = inputs(rounded)
    batch = rounded.batch
    n_kept = 3
    fields = ("token_time", "token_value", "token_channel", "token_observed")
    padded = replace(batch, **{key: nn.functional.pad(getattr(batch, key), (0, 7)) for key in fields})
    assert torch.allclose(
        decoder(z, padded, context, frame).stddev, decoder(z, batch, context, frame).stddev, atol=1e-5
    )
    rows = replace(batch, **{key: x[:n_kept] for key, x in vars(batch).items() if isinstance(x, Tensor)})
    few = decoder(z[:n_kept], rows, context[:n_kept], Frame(frame.base[:n_kept], frame.unit[:n_kept]))
    assert torch.allclose(few.stddev, decoder(z, batch, context, frame).stddev[:n_kept], rtol=1e-4)


@every_decoder
def test_quantiles_ascend_and_give_their_levels_back(name, rounded):
    found = decode(perturb(build(name, rounded)), rounded)
    levels = [0.025, 0.1, 0.4, 0.5, 0.9, 0.975]
    at = torch.stack([quantile(found, level) for level in levels])
    assert (at.diff(dim=0) >= 0).all()
    if name != "mixture":
        # A part of a thousandth's width holds more probability than single precision has steps.
        for level, x in zip(levels, at, strict=True):
            assert torch.allclose(cumulative(found, x), torch.full_like(x, level), atol=1e-4)


@every_decoder
def test_a_run_comes_back_as_it_was(name, rounded, tmp_path):
    p = rounded
    fitted = FittedModel.new(model(name, rounded), p.table, p.scaler, p.settings, p.spans, 0)
    fitted.network.prepare([p.batch])
    fitted.calibrate([p.validation])
    fitted.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt")
    one, two = fitted.network(p.batch), again.network(p.batch)
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.log_prob(p.batch.target_value), two.log_prob(p.batch.target_value))


@every_decoder
def test_calibration_moves_the_mean_by_weights_and_keeps_scores_finite(name, rounded):
    network = model(name, rounded)
    network.calibrate([rounded.validation])
    batch = rounded.batch
    with torch.no_grad():
        residual = network.residual(batch, network.frame(network.read(batch)))
        found = network(batch)
    frame, weight = network.frame(network.read(batch)), network.residual_weight[batch.target_channel]
    assert torch.allclose(found.mean, frame.base + frame.unit * weight * residual.mean, atol=1e-6)
    assert found.log_prob(batch.target_value)[batch.target_observed].isfinite().all()


@pytest.mark.parametrize("name", [name for name in DECODERS if DECODERS[name].has_likelihood])
def test_the_evidence_lower_bound_trains_it(name, rounded):
    torch.manual_seed(0)
    network = LatentODE(decoder=DECODERS[name](hidden_size=16), latent_size=LATENT, objective="elbo")
    network.setup(rounded.table.schema)
    network.prepare([rounded.batch])
    perturb(network).train().loss(rounded.batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert (network.decoder.output.weight.grad[0] != 0).any()


@every_decoder
def test_it_is_written_by_class_path(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ForecastingTask, "model")
    decoder = {"class_path": f"latentode.models.{DECODERS[name].__name__}", "init_args": {"hidden_size": 8}}
    network = {"class_path": "latentode.models.LatentODE", "init_args": {"decoder": decoder}}
    built = parser.instantiate(parser.parse_object({"model": {"network": network}})).model.network
    assert type(built.decoder) is DECODERS[name]
    assert built.decoder.hidden_size == 8
    assert to_plain(from_plain(to_plain(built))) == to_plain(built)


@every_decoder
def test_a_forecast_gives_mean_deviation_and_ascending_quantiles(name):
    network = LatentODE(decoder=DECODERS[name](hidden_size=8), latent_size=LATENT)
    frame = rounded_frame()
    forecaster = Forecaster(
        network, horizon=3.0, max_epochs=1, windows_per_epoch=64, batch_size=32, device="cpu", show_progress=False
    ).fit(frame)
    forecast = forecaster.predict(frame, every=1.5)
    assert np.isfinite(forecast.mean).all()
    assert (forecast.std > 0).all()
    assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
    scores = forecaster.metrics_["test"]
    assert all(np.isfinite(scores[metric]) for metric in METRICS if metric in scores)
    assert {"mse", "nll", "crps", "coverage_80"} <= set(scores)


def train(decoder, prepared, n_steps=60):
    """Train the decoder alone on states that say nothing; give negative log-likelihood and squared error per channel."""
    batch = prepared.batch
    z = torch.zeros(*batch.target_row.shape, LATENT)
    context = torch.eye(3, CONTEXT).expand(len(batch), -1, -1)
    frame = Frame(torch.zeros_like(batch.target_value), torch.ones_like(batch.target_value))
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    seen = batch.target_observed
    for _ in range(n_steps):
        loss = decoder.score(decoder(z, batch, context, frame), batch.target_value, 1.0)[seen].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = decoder(z, batch, context, frame)
        scores = -found.log_prob(batch.target_value), (found.mean - batch.target_value).square()
    return [[float(x[seen & (batch.target_channel == c)].mean()) for c in range(3)] for x in scores]


def test_a_mixture_says_which_value_comes_where_a_gaussian_cannot_and_its_mean_is_as_good(rounded):
    gaussian_nll, gaussian_mse = train(build("gaussian", rounded), rounded)
    nll, mse = train(build("mixture", rounded), rounded)
    assert nll[0] < gaussian_nll[0] - 2.5
    assert nll[1] < gaussian_nll[1] - 1
    assert sum(mse) < 1.1 * sum(gaussian_mse)


def test_atoms_are_the_commonest_values_of_a_channel(rounded):
    decoder = build("mixture", rounded, n_atoms=2)
    batch = rounded.batch
    for c in range(2):
        # An observation is a target of many windows; the same value at another time is another observation.
        seen = batch.target_observed & (batch.target_channel == c)
        time = batch.origin[:, None] + batch.time_scale * batch.query_time.gather(1, batch.target_row)
        places = torch.stack([batch.series[:, None].expand_as(seen), time, batch.target_value.double()], -1)[seen]
        own = (1e4 * places).round().unique(dim=0)[:, 2]
        value, count = own.unique(return_counts=True)
        expected = count.sort(descending=True).values[:2]
        assert [int(count[value == (1e4 * atom.double()).round()]) for atom in decoder.atom[c]] == expected.tolist()
        assert torch.allclose(decoder.atom_log_share[c].exp(), expected / len(own))
    assert (decoder.atom_log_share[2] < -50).all()


def test_atoms_counted_in_parts_are_those_of_the_whole(rounded):
    whole, parts = build("mixture", rounded), MixtureDecoder()
    parts.setup(rounded.table.schema, LATENT, CONTEXT)
    halves = [
        replace(rounded.batch, **{key: x[half] for key, x in vars(rounded.batch).items() if isinstance(x, Tensor)})
        for half in (slice(0, 30), slice(30, None))
    ]
    assert list(parts.watch(halves)) == halves
    assert torch.equal(whole.atom, parts.atom)
    assert torch.equal(whole.atom_log_share, parts.atom_log_share)


def test_a_mixture_has_a_part_at_the_last_value_whatever_validation_chose(rounded):
    network = model("mixture", rounded)
    network.base_weight.mul_(0.7)
    network.residual_weight.fill_(0.3)
    network.calibration.width.fill_(2.0)
    batch = rounded.batch
    found = network(batch)
    last = torch.zeros_like(batch.target_value)
    for b in range(len(batch)):
        for m in range(last.shape[1]):
            own = batch.token_observed[b] & (batch.token_channel[b] == batch.target_channel[b, m])
            last[b, m] = batch.token_value[b][own][-1] if own.any() else 0.0
    part = found.component_distribution
    assert isinstance(part, Normal)
    assert torch.allclose(part.loc[..., 0], last, atol=1e-5)


def test_a_channel_that_was_not_seen_has_no_part_at_its_last_value(rounded):
    decoder = perturb(build("mixture", rounded))
    z, context, frame = inputs(rounded)
    empty = replace(rounded.batch, token_observed=torch.zeros_like(rounded.batch.token_observed))
    share = decoder(z, empty, context, frame).mixture_distribution.probs
    assert share[..., :2].max() < 1e-20
    assert torch.allclose(share.sum(-1), torch.ones_like(frame.base))


def test_a_mixture_without_atoms_and_with_one_free_part_is_a_decoder_too(rounded):
    found = decode(perturb(build("mixture", rounded, n_components=1, n_atoms=0)), rounded)
    assert found.component_distribution.mean.shape[-1] == 3
    assert found.log_prob(rounded.batch.target_value).isfinite().all()


def test_a_student_t_has_a_variance(rounded):
    decoder = build("student t", rounded)
    with torch.no_grad():
        decoder.shape_output.bias[1] = -100.0
    found = decode(decoder, rounded)
    assert (found.df > 2).all()
    assert torch.allclose(found.variance, found.scale.square() * 21, rtol=1e-3)


@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(InputError, match="ascending between 0 and 1"):
        QuantileDecoder(levels)


@pytest.mark.parametrize("settings", [{"n_components": 0}, {"n_atoms": -1}])
def test_a_mixture_of_nothing_is_refused(settings):
    with pytest.raises(InputError, match="n_components"):
        MixtureDecoder(**settings)


def paired(n=200, seed=0):
    """Two channels at every time: the first has two peaks, the second follows its sign but for noise; the third is another normal."""
    g = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (n,), generator=g) * 2.0 - 1
    noise = torch.randn(n, 3, generator=g)
    return torch.stack([sign + 0.25 * noise[:, 0], 0.8 * sign + 0.6 * noise[:, 1], noise[:, 2]], 1)


def test_a_flow_learns_peaks_that_a_gaussian_cannot_and_which_channels_go_together(rounded):
    value = paired()
    n = len(value)
    names = (
        "origin",
        "series",
        "token_time",
        "token_value",
        "token_channel",
        "token_observed",
        "query_time",
        "query_observed",
    )
    first = {
        name: getattr(rounded.batch, name)[:1].expand(n, *[-1] * (getattr(rounded.batch, name).ndim - 1))
        for name in names
    }
    batch = replace(
        rounded.batch,
        **first,
        target_row=torch.zeros(n, 3, dtype=torch.int64),
        target_channel=torch.arange(3).expand(n, -1),
        target_value=value,
        target_observed=torch.ones(n, 3, dtype=torch.bool),
        token_known=None,
        known=None,
        statics=None,
        statics_observed=None,
        categories=None,
    )
    z, context = torch.zeros(n, 3, LATENT), torch.eye(3, CONTEXT).expand(n, -1, -1)
    frame = Frame(torch.zeros(n, 3), torch.ones(n, 3))

    def learned(name, **settings):
        decoder = build(name, rounded, hidden_size=16, **settings)
        optimiser = torch.optim.Adam(decoder.parameters(), lr=5e-2)
        for _ in range(70):
            loss = decoder.score(decoder(z, batch, context, frame), value, 1.0).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return decoder(z, batch, context, frame)

    gaussian, flow = learned("gaussian"), learned("flow")
    gain = (flow.log_prob(value) - gaussian.log_prob(value)).mean(0)
    assert gain[0] > 0.3
    assert gain[1:].min() > -0.02
    # What all three say together is more than what each says alone, by what the first two have in common.
    assert float((flow.joint_log_prob(value)[:, 0] - flow.log_prob(value).sum(1)).mean()) > 0.2
    rho = flow.rows.loading[0]
    assert float(rho[0] @ rho[1]) > 0.5
    assert abs(float(rho[0] @ rho[2])) < 0.15


def test_a_flow_joins_the_targets_of_one_query_time_and_padding_is_in_no_row(rounded):
    batch = rounded.batch
    found = decode(perturb(build("flow", rounded)), rounded)
    assert torch.equal(found.rows.row, batch.target_row)
    joint = found.joint_log_prob(batch.target_value)
    own = found.log_prob(batch.target_value)
    for b in range(3):
        for row in range(batch.query_time.shape[1]):
            inside = batch.target_observed[b] & (batch.target_row[b] == row)
            if int(inside.sum()) == 1:
                assert torch.allclose(joint[b, row], own[b][inside][0], atol=1e-4)
            if not bool(inside.any()):
                assert joint[b, row] == 0
    # The score of all targets adds up to the joint density of all rows.
    decoder = build("flow", rounded)
    total = decoder.log_likelihood(found, batch.target_value)[batch.target_observed].sum()
    assert torch.allclose(total, joint.sum(), rtol=1e-4)


def test_a_flow_without_factors_joins_nothing(rounded):
    found = decode(perturb(build("flow", rounded, n_factors=0)), rounded)
    assert found.rows is None
    assert found.sample((4,)).shape == (4, *rounded.batch.target_row.shape)


@pytest.mark.parametrize("settings", [{"n_units": 0}, {"n_factors": -1}])
def test_a_flow_of_nothing_is_refused(settings):
    with pytest.raises(InputError, match="n_units"):
        FlowDecoder(**settings)
