"""Laws that hold for every tableau; a new entry of the table is tested before anyone writes a test for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from latentode.ode import TABLEAUS
from latentode.ode.dense import interpolation_weights

NAMES = sorted(TABLEAUS)
ADAPTIVE = [name for name in NAMES if TABLEAUS[name].b_hat is not None]

# The order conditions of Hairer, Norsett and Wanner (1993), table II.2.1: rooted trees as nested tuples of their branches.
LEAF = ()


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


def matrix(tableau):
    a = np.zeros((tableau.n_stages, tableau.n_stages))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    return a


def greatest_defect(weights, a, order):
    return max(
        abs(weights @ stage_weights(tree, a) - 1 / density(tree)) for n in range(1, order + 1) for tree in trees(n)
    )


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_sum_to_the_place_of_their_stage(name):
    tableau = TABLEAUS[name]
    assert matrix(tableau).sum(1) == pytest.approx(np.asarray(tableau.c), abs=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_order_conditions_hold_up_to_the_order_claimed_and_not_beyond(name):
    tableau = TABLEAUS[name]
    a, b = matrix(tableau), np.asarray(tableau.b)
    assert greatest_defect(b, a, tableau.order) < 1e-12
    assert greatest_defect(b, a, tableau.order + 1) > 1e-4


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_method_is_of_one_order_less(name):
    tableau = TABLEAUS[name]
    a, b_hat = matrix(tableau), np.asarray(tableau.b_hat)
    assert greatest_defect(b_hat, a, tableau.order - 1) < 1e-12
    assert greatest_defect(b_hat, a, tableau.order) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_interpolant_meets_the_order_conditions_of_its_own_order_anywhere_in_the_step(name):
    tableau = TABLEAUS[name]
    order = min(tableau.dense_order, tableau.order)
    a = matrix(tableau)
    rows = interpolation_weights(tableau)
    if len(rows) > tableau.n_stages:
        # The slope at the step's end is one stage more.
        n = tableau.n_stages
        a = np.block([[a, np.zeros((n, 1))], [np.asarray(tableau.b)[None], np.zeros((1, 1))]])
    for theta in (0.25, 0.5, 0.9, 1.0):
        b = np.asarray([sum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in rows])
        for n in range(1, order + 1):
            for tree in trees(n):
                assert b @ stage_weights(tree, a) == pytest.approx(theta**n / density(tree), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_tableau_names_its_source(name):
    assert any(character.isdigit() for character in TABLEAUS[name].source)
