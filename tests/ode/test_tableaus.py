"""Laws that hold for every tableau; a new entry of the tables is tested before anyone writes a test for it."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

from latentode.ode.dense import interpolation_weights
from latentode.ode.tableaus import ESDIRK_TABLEAUS, TABLEAUS

ALL = {**TABLEAUS, **ESDIRK_TABLEAUS}
NAMES = sorted(ALL)
ADAPTIVE = [name for name in NAMES if ALL[name].b_hat is not None]
STIFF = sorted(ESDIRK_TABLEAUS)

# The order conditions of Hairer, Norsett and Wanner (1993), table II.2.1: rooted trees as nested tuples of their branches.
LEAF = ()


@functools.cache
def trees(order):
    """All rooted trees with `order` nodes."""
    if order == 1:
        return [LEAF]
    found = set()
    for n_branches in range(1, order):
        for sizes in itertools.combinations_with_replacement(range(1, order), n_branches):
            if sum(sizes) == order - 1:
                for branches in itertools.product(*(trees(size) for size in sizes)):
                    found.add(tuple(sorted(branches)))
    return sorted(found)


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * math.prod(map(density, tree))


def stage_weights(tree, a):
    product = np.ones(len(a))
    for branch in tree:
        product *= a @ stage_weights(branch, a)
    return product


def square(rows):
    a = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        a[i, : len(row)] = row
    return a


def greatest_defect(weights, a, order, theta=1.0):
    """Of the conditions of trees with exactly `order` nodes."""
    return max(abs(weights @ stage_weights(tree, a) - theta**order / density(tree)) for tree in trees(order))


def matrix(tableau):
    return square(tableau.a)


def dense_rows(tableau):
    """The rows of all stages that the interpolant weighs: the slope at the step's end is one, and so are further ones."""
    end = [] if tableau.is_fsal else [tableau.b]
    return [*tableau.a, *end, *tableau.dense_a]


def dense_weights(tableau, theta):
    return np.asarray([sum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in interpolation_weights(tableau)])


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_sum_to_the_place_of_their_stage(name):
    tableau = ALL[name]
    c = [*tableau.c, *([] if tableau.is_fsal else [1.0]), *tableau.dense_c]
    assert square(dense_rows(tableau)).sum(1) == pytest.approx(np.asarray(c), abs=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_order_conditions_hold_up_to_the_order_claimed_and_not_beyond(name):
    tableau = ALL[name]
    a, b = matrix(tableau), np.asarray(tableau.b)
    assert max(greatest_defect(b, a, order) for order in range(1, tableau.order + 1)) < 1e-13
    assert greatest_defect(b, a, tableau.order + 1) > 5e-6


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_method_is_of_one_order_less(name):
    tableau = ALL[name]
    a, b_hat = matrix(tableau), np.asarray(tableau.b_hat)
    assert max(greatest_defect(b_hat, a, order) for order in range(1, tableau.order)) < 1e-13
    assert greatest_defect(b_hat, a, tableau.order) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_interpolant_meets_the_order_conditions_of_its_own_order_anywhere_in_the_step_and_not_beyond(name):
    tableau = ALL[name]
    order = min(tableau.dense_order, tableau.order)
    a = square(dense_rows(tableau))
    beyond = 0.0
    for theta in (0.05, 0.25, 0.5, 0.77, 0.9, 1.0):
        b = dense_weights(tableau, theta)
        assert max(greatest_defect(b, a, n, theta) for n in range(1, order + 1)) < 1e-12
        beyond = max(beyond, greatest_defect(b, a, order + 1, theta))
    assert beyond > 5e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_interpolant_ends_in_the_step_itself(name):
    tableau = ALL[name]
    b = np.asarray([*tableau.b, *(0.0,) * (len(interpolation_weights(tableau)) - tableau.n_stages)])
    assert dense_weights(tableau, 1.0) == pytest.approx(b, abs=1e-11)


@pytest.mark.parametrize("name", sorted(TABLEAUS))
def test_the_interpolant_of_an_explicit_method_has_the_slopes_of_the_step_at_its_ends(name):
    tableau = TABLEAUS[name]
    rows = [np.asarray(row) for row in interpolation_weights(tableau)]
    start, end = np.zeros(len(rows)), np.zeros(len(rows))
    start[0], end[tableau.n_stages - (1 if tableau.is_fsal else 0)] = 1.0, 1.0
    assert [row[0] for row in rows] == pytest.approx(start, abs=1e-11)
    assert [row @ np.arange(1, len(row) + 1) for row in rows] == pytest.approx(end, abs=1e-10)


def test_the_further_stages_of_dopri8_stand_where_states_are_of_order_6_without_them():
    a = square(dense_rows(TABLEAUS["dopri8"]))
    for row, order in ((14, 6), (15, 6), (16, 7)):
        theta = TABLEAUS["dopri8"].dense_c[row - 14]
        assert max(greatest_defect(a[row], a, n, theta) for n in range(1, order + 1)) < 1e-14
        assert greatest_defect(a[row], a, order + 1, theta) > 1e-6


def response(tableau, z, weights):
    """What a step, or its interpolant, makes of `y' = z y / dt`, per unit of `y0` (Hairer and Wanner 1996, IV.3)."""
    n = tableau.n_stages
    return 1 + z * np.asarray(weights) @ np.linalg.solve(np.eye(n) - z * matrix(tableau), np.ones(n))


@pytest.mark.parametrize("name", STIFF)
def test_a_stiff_method_is_l_stable_and_its_embedded_one_a_stable(name):
    tableau = ESDIRK_TABLEAUS[name]
    assert tableau.a[-1] == tableau.b
    assert abs(response(tableau, -1e8, tableau.b)) < 1e-6
    # By the maximum principle the imaginary axis is enough.
    for y in np.logspace(-3, 8, 200):
        for weights in (tableau.b, tableau.b_hat):
            assert abs(response(tableau, 1j * y, weights)) <= 1 + 1e-7


@pytest.mark.parametrize("name", STIFF)
def test_the_interpolant_of_a_stiff_method_leaves_a_component_that_decays_at_once_within_its_start(name):
    tableau = ESDIRK_TABLEAUS[name]
    for theta in np.linspace(0.0, 1.0, 21):
        assert abs(response(tableau, -1e8, dense_weights(tableau, theta))) <= 1 + 1e-6


@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])
def test_the_interpolant_of_kvaerno5_damps_a_component_that_decays_at_once(theta):
    tableau = ESDIRK_TABLEAUS["kvaerno5"]
    assert response(tableau, -1e8, dense_weights(tableau, theta)) == pytest.approx((1 - theta) ** 4, abs=1e-6)


def test_no_name_stands_for_two_methods():
    assert not set(TABLEAUS) & set(ESDIRK_TABLEAUS)


@pytest.mark.parametrize("name", NAMES)
def test_every_tableau_names_its_source(name):
    assert any(character.isdigit() for character in ALL[name].source)
