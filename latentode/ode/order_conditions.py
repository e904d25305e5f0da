"""Interpolants made from the conditions that their order asks of the stages' weights.

A polynomial `y(t + theta dt) = y0 + sum_i w_i(theta) dk_i` is of order `p` if, for every rooted tree of `n <= p` nodes,
`sum_i w_i(theta) Phi_i(tree) = theta**n / gamma(tree)` (Hairer, Norsett and Wanner 1993, theorem II.2.13 and section II.6). A
tree is the tuple of its branches, `()` a single node; `a` are the rows of a tableau, each as long as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Tree = tuple["Tree", ...]
Rows = Sequence[Sequence[float]]


def bush(n: int) -> Tree:
    """Give the tree of a root and `n` leaves, whose condition is a quadrature formula's: `sum_i w_i c_i**n`."""
    return ((),) * n


def size(tree: Tree) -> int:
    """Count the nodes."""
    return 1 + sum(map(size, tree))


def density(tree: Tree) -> int:
    """Give `gamma`: the product of the sizes of the tree and of all trees inside it."""
    return size(tree) * math.prod(map(density, tree))


def elementary_weights(tree: Tree, a: Rows) -> list[float]:
    """Give `Phi_i(tree)` of every stage: the product over the branches of `sum_j a_ij Phi_j(branch)`."""
    inner = [elementary_weights(branch, a) for branch in tree]
    return [math.prod(_dot(row, phi) for phi in inner) for row in a]


def weights_at(theta: float, a: Rows, stages: Sequence[int], trees: Sequence[Tree]) -> tuple[float, ...]:
    """Give the weights, 0 but for `stages`, that meet the conditions of `trees`, one for each of `stages`, at one place."""
    rows = [_pick(elementary_weights(tree, a), stages) for tree in trees]
    right = [[theta ** size(tree) / density(tree)] for tree in trees]
    return tuple(row[0] for row in _spread(solve_linear(rows, right), stages, len(a)))


def interpolant(
    a: Rows, stages: Sequence[int], trees: Sequence[Tree], given: dict[int, Sequence[float]]
) -> tuple[tuple[float, ...], ...]:
    """Give the weights as polynomials: row `i` holds the coefficients of `theta, theta**2, ...` of stage `i`.

    Args:
        a: rows of all stages.
        stages: whose weights are sought; those of all others are 0, unless given.
        trees: conditions to meet, one for each of `stages`.
        given: weights that are settled beforehand, by stage.
    """
    degree = max(map(size, trees))
    rows, right = [], []
    for tree in trees:
        phi = elementary_weights(tree, a)
        rest = [0.0] * degree
        rest[size(tree) - 1] = 1 / density(tree)
        for i, weight in given.items():
            rest = [x - phi[i] * w for x, w in zip(rest, _pad(weight, degree), strict=True)]
        rows.append(_pick(phi, stages))
        right.append(rest)
    found = _spread(solve_linear(rows, right), stages, len(a))
    return tuple(tuple(_pad(given[i], degree) if i in given else row) for i, row in enumerate(found))


def stiff_interpolant(
    a: Rows, stages: Sequence[int], order: int, at_infinity: Sequence[float] | None
) -> tuple[tuple[float, ...], ...]:
    """Give the interpolant of an ESDIRK method that a stiff component cannot throw off.

    On `y' = lambda y` it gives `u(theta) y0`, and `u` must stay bounded as `lambda dt` goes to minus infinity. The cubic through
    the slopes at both ends grows like `lambda dt` there: what little is left of a fast component makes the output useless.
    It stays bounded if the weights make the output a combination of the states at the stages, into which the slope at the
    start does not enter: `w_0 = w~ A~^-1 a_0`, with `A~` and `a_0` the rows of the implicit stages without and with the first
    column alone.

    Args:
        a: rows of all stages, the first explicit, the others of stage order 2 at least.
        stages: whose weights are sought, enough of stage order `order - 1` that quadrature conditions suffice.
        order: of the interpolant.
        at_infinity: where a freedom is left, the coefficients of `theta, ...` in the limit of `u - 1`.
    """
    s, r = states_at_infinity(a)
    rows = [_pick(elementary_weights(bush(k), a), stages) for k in range(order)]
    right = [[1 / (k + 1) if j == k else 0.0 for j in range(order)] for k in range(order)]
    rows.append(_pick(s, stages))
    right.append([0.0] * order)
    if at_infinity is not None:
        rows.append(_pick(r, stages))
        right.append(_pad(at_infinity, order))
    return tuple(map(tuple, _spread(solve_linear(rows, right), stages, len(a))))


def states_at_infinity(a: Rows) -> tuple[list[float], list[float]]:
    """Give `s, r` such that the stages of an ESDIRK method on `y' = lambda y` are `(s_i + r_i / z) y0` for large `z = lambda dt`."""
    # The stages' equations, Y = y0 + z A Y, order by order in 1 / z.
    rows = [_pad(row, len(a)) for row in a[1:]]
    implicit = [row[1:] for row in rows]
    s = [x for (x,) in solve_linear(implicit, [[-row[0]] for row in rows])]
    r = [x for (x,) in solve_linear(implicit, [[x - 1.0] for x in s])]
    return [1.0, *s], [0.0, *r]


def solve_linear(matrix: Rows, right: Rows) -> list[list[float]]:
    """Solve `matrix @ x = right` by elimination with partial pivoting; a dozen rows, so that plain numbers are quick enough."""
    n = len(matrix)
    # Each row is scaled to its largest entry: conditions of many nodes have small entries, which say nothing of their worth.
    work = [[x / max(map(abs, row)) for x in (*row, *rest)] for row, rest in zip(matrix, right, strict=True)]
    for i in range(n):
        i_pivot = max(range(i, n), key=lambda j: abs(work[j][i]))
        work[i], work[i_pivot] = work[i_pivot], work[i]
        for j in range(i + 1, n):
            factor = work[j][i] / work[i][i]
            work[j] = [x - factor * y for x, y in zip(work[j], work[i], strict=True)]
    solution: list[list[float]] = []
    for i in reversed(range(n)):
        known = [_dot(work[i][i + 1 : n], column) for column in zip(*solution, strict=True)] or [0.0] * len(right[0])
        solution.insert(0, [(x - y) / work[i][i] for x, y in zip(work[i][n:], known, strict=True)])
    return solution


def _dot(row: Sequence[float], column: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(row, column, strict=False))


def _pick(values: Sequence[float], stages: Sequence[int]) -> list[float]:
    return [values[i] for i in stages]


def _pad(values: Sequence[float], n: int) -> list[float]:
    return [*values, *(0.0,) * (n - len(values))]


def _spread(rows: list[list[float]], stages: Sequence[int], n: int) -> list[tuple[float, ...]]:
    """Put the rows where their stages stand, zeros elsewhere."""
    found = dict(zip(stages, map(tuple, rows), strict=True))
    return [found.get(i, (0.0,) * len(rows[0])) for i in range(n)]
