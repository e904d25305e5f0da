"""The pieces that interpolants are made of; what is made of them is tested in `test_tableaus`."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.ode.order_conditions import (
    bush,
    density,
    elementary_weights,
    interpolant,
    solve_linear,
    states_at_infinity,
    weights_at,
)
from latentode.ode.tableaus import KVAERNO5, RK4


def test_density_is_that_of_the_table_of_trees_in_the_book():
    # Hairer, Norsett and Wanner (1993), table II.2.1, trees of order 4: 4, 8, 12, 24.
    assert [density(tree) for tree in (bush(3), ((), bush(1)), (bush(2),), ((bush(1),),))] == [4, 8, 12, 24]


def test_elementary_weights_are_products_over_branches():
    a = ((), (0.5,), (0.25, 0.75))
    # sum_j a_ij c_j, times c_i
    assert elementary_weights(((), bush(1)), a) == pytest.approx([0.0, 0.0, 1.0 * 0.75 * 0.5])


def test_weights_at_the_end_of_the_step_are_those_of_the_method():
    trees = (bush(0), bush(1), bush(2), (bush(1),))
    assert weights_at(1.0, RK4.a, range(4), trees) == pytest.approx(RK4.b)


def test_an_interpolant_agrees_with_weights_at_one_place_and_keeps_what_is_given():
    trees = (bush(0), bush(1), bush(2))
    rows = interpolant(RK4.a, (0, 1, 3), trees, given={2: (0.0, 1.0, -2 / 3)})
    assert rows[2] == pytest.approx((0.0, 1.0, -2 / 3))
    for theta in (0.3, 1.0):
        weights = [sum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in rows]
        for k in range(3):
            moment = sum(w * c**k for w, c in zip(weights, RK4.c, strict=True))
            assert moment == pytest.approx(theta ** (k + 1) / (k + 1))


def test_states_at_infinity_are_the_limit_of_those_of_a_stiff_linear_equation():
    n, z = KVAERNO5.n_stages, -1e5
    a = np.array([(*row, *(0.0,) * (n - len(row))) for row in KVAERNO5.a])
    s, r = states_at_infinity(KVAERNO5.a)
    states = np.linalg.solve(np.eye(n) - z * a, np.ones(n))
    assert np.asarray(s) + np.asarray(r) / z == pytest.approx(states, abs=1e-6)


def test_linear_equations_are_solved_as_numpy_does():
    draw = np.random.default_rng(0)
    # A zero on the diagonal asks for pivoting, rows of very different size for scaling.
    matrix = draw.normal(size=(6, 6)) * 10.0 ** np.arange(-6, 6, 2)[:, None]
    matrix[0, 0] = 0.0
    right = draw.normal(size=(6, 2))
    solution = np.asarray(solve_linear(matrix.tolist(), right.tolist()))
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, right), rtol=1e-9)
