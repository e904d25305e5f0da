"""Equations of a user, in a module of its own."""

# ruff: noqa: RUF012  (written as a user would, without annotations)

from __future__ import annotations

import torch

from latentode.models import Equation, Positive, Real


class Relaxation(Equation):
    """Falls from a height of each series' own towards a level that all share."""

    states = {"x": Real(1.0, per_series=True)}
    constants = {"rate": Positive(1.0), "level": Real(0.0)}

    def slope(self, t, y, p):
        return [p.rate * (p.level - y.x)]


class Line(Equation):
    """A straight line: what it observes is linear in its numbers."""

    states = {"x": Real(0.0, per_series=True)}
    constants = {"tilt": Real(0.0, per_series=True)}

    def slope(self, t, y, p):
        return [p.tilt + 0 * y.x]


class Decay(Equation):
    """Falls to nothing; height and rate are those of all series."""

    states = {"x": Positive(1.0)}
    constants = {"rate": Positive(1.0)}

    def slope(self, t, y, p):
        return [-p.rate * y.x]


class Washout(Equation):
    """Falls the faster the lighter a series is."""

    states = {"x": Positive(1.0, per_series=True)}
    constants = {"clearance": Positive(1.0)}
    covariates = ("weight",)

    def slope(self, t, y, p):
        return [-p.clearance / p.weight * y.x]


class Tide(Equation):
    """Driven by the clock alone."""

    states = {"x": 0.0}
    starts_at = 0.0

    def slope(self, t, y, p):
        return [torch.cos(t) + 0 * y.x]


class Explosion(Equation):
    """Is at infinity before its time has come, where the number is large."""

    states = {"x": Positive(1.0, per_series=True)}

    def slope(self, t, y, p):
        return [y.x**2]
