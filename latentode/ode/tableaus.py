"""Butcher tableaus as their papers print them, each with its source, and the tables `TABLEAUS` and `ESDIRK_TABLEAUS` of all of them."""

from __future__ import annotations

from .esdirk import EsdirkTableau
from .order_conditions import bush, interpolant, stiff_interpolant, weights_at
from .runge_kutta import ButcherTableau

EULER = ButcherTableau(c=(0.0,), a=((),), b=(1.0,), order=1, source="Euler (1768)")

MIDPOINT = ButcherTableau(
    c=(0.0, 1 / 2),
    a=((), (1 / 2,)),
    b=(0.0, 1.0),
    order=2,
    source="Runge (1895); Hairer, Norsett and Wanner (1993), table II.1.1",
)

HEUN = ButcherTableau(
    c=(0.0, 1.0),
    a=((), (1.0,)),
    b=(1 / 2, 1 / 2),
    b_hat=(1.0, 0.0),
    order=2,
    source="Heun (1900), the trapezoidal rule made explicit, with Euler embedded",
)

RALSTON = ButcherTableau(
    c=(0.0, 2 / 3),
    a=((), (2 / 3,)),
    b=(1 / 4, 3 / 4),
    b_hat=(1.0, 0.0),
    order=2,
    source="Ralston (1962), the second-order method of least error bound, with Euler embedded",
)

FEHLBERG2 = ButcherTableau(
    c=(0.0, 1 / 2, 1.0),
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    b_hat=(1 / 256, 255 / 256, 0.0),
    order=2,
    source="Fehlberg (1969), NASA TR R-315, RK1(2), carried on with its second order",
)

RK4 = ButcherTableau(
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 2 / 6, 2 / 6, 1 / 6),
    order=4,
    source="Kutta (1901), 'the' Runge-Kutta method; Hairer, Norsett and Wanner (1993), table II.1.2",
)

BOSH3 = ButcherTableau(
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    b_hat=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    order=3,
    source="Bogacki and Shampine (1989), A 3(2) pair of Runge-Kutta formulas",
)

DOPRI5 = ButcherTableau(
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    b_hat=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    order=5,
    dense=(
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    dense_order=4,
    source="Dormand and Prince (1980); interpolant of Shampine (1986), Some practical Runge-Kutta formulas",
)

TSIT5 = ButcherTableau(
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0),
    b_hat=(
        0.09468075576583945,
        0.009183565540343254,
        0.4877705284247616,
        1.234297566930479,
        -2.7077123499835256,
        1.866628418170587,
        0.015151515151515152,
    ),
    order=5,
    dense=(
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.13169999999999998, -0.2234, 0.1017),
        (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
    dense_order=4,
    source="Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
)

# fmt: off
_DOPRI8_C = (
    0.0, 1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200, 5490023248 / 9719169821, 13 / 20,
    1201146811 / 1299019798, 1.0, 1.0,
)
_DOPRI8_A = (
    (),
    (1 / 18,),
    (1 / 48, 1 / 16),
    (1 / 32, 0.0, 3 / 32),
    (5 / 16, 0.0, -75 / 64, 75 / 64),
    (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
    (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
    (
        16016141 / 946692911, 0.0, 0.0, 61564180 / 158732637, 22789713 / 633445777, 545815736 / 2771057229,
        -180193667 / 1043307555,
    ),
    (
        39632708 / 573591083, 0.0, 0.0, -433636366 / 683701615, -421739975 / 2616292301, 100302831 / 723423059,
        790204164 / 839813087, 800635310 / 3783071287,
    ),
    (
        246121993 / 1340847787, 0.0, 0.0, -37695042795 / 15268766246, -309121744 / 1061227803, -12992083 / 490766935,
        6005943493 / 2108947869, 393006217 / 1396673457, 123872331 / 1001029789,
    ),
    (
        -1028468189 / 846180014, 0.0, 0.0, 8478235783 / 508512852, 1311729495 / 1432422823, -10304129995 / 1701304382,
        -48777925059 / 3047939560, 15336726248 / 1032824649, -45442868181 / 3398467696, 3065993473 / 597172653,
    ),
    (
        185892177 / 718116043, 0.0, 0.0, -3185094517 / 667107341, -477755414 / 1098053517, -703635378 / 230739211,
        5731566787 / 1027545527, 5232866602 / 850066563, -4093664535 / 808688257, 3962137247 / 1805957418,
        65686358 / 487910083,
    ),
    (
        403863854 / 491063109, 0.0, 0.0, -5068492393 / 434740067, -411421997 / 543043805, 652783627 / 914296604,
        11173962825 / 925320556, -13158990841 / 6184727034, 3936647629 / 1978049680, -160528059 / 685178525,
        248638103 / 1413531060, 0.0,
    ),
)
_DOPRI8_B = (
    14005451 / 335480064, 0.0, 0.0, 0.0, 0.0, -59238493 / 1068277825, 181606767 / 758867731, 561292985 / 797845732,
    -1041891430 / 1371343529, 760417239 / 1151165299, 118820643 / 751138087, -528747749 / 2220607170, 1 / 4,
)
_DOPRI8_B_HAT = (
    13451932 / 455176623, 0.0, 0.0, 0.0, 0.0, -808719846 / 976000145, 1757004468 / 5645159321, 656045339 / 265891186,
    -3867574721 / 1518517206, 465885868 / 322736535, 53011238 / 667516719, 2 / 45, 0.0,
)
# fmt: on

# Between the ends of a step the 13 stages and the slope at its end carry a polynomial of order 5 (Bogacki and Shampine 1990), but
# at the two places (1 +- 1 / sqrt 7) / 2 a state of order 6. The slopes there make order 6 possible anywhere, and even 7 in the
# middle; with the slope of that state there is one polynomial of order 7 for each choice of one weight. This bootstrapping is
# Enright, Jackson, Norsett and Thomsen's (1986). Conditions of trees other than bushes, each named by what it weighs:
_AC4, _AC5, _C_AC4 = (bush(4),), (bush(5),), ((), bush(4))
_AAAAC, _A_C_AC3 = ((((((),),),),),), (((), bush(3)),)


def _dopri8_further_stages() -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Give places and rows of the stages that only the interpolant needs."""
    c = ((1 - 7**-0.5) / 2, (1 + 7**-0.5) / 2, 1 / 2)
    a = (*_DOPRI8_A, _DOPRI8_B)
    # Stages 1 to 4 are of too low an order themselves.
    stages = (0, *range(5, 14))
    trees = (*map(bush, range(8)), _AC4, _AAAAC)
    rows = tuple(weights_at(theta, a, stages, trees) for theta in c[:2])
    return c, (*rows, weights_at(c[2], (*a, *rows), (*stages, 14, 15), (*trees, _AC5, _C_AC4)))


_DOPRI8_DENSE_C, _DOPRI8_DENSE_A = _dopri8_further_stages()

DOPRI8 = ButcherTableau(
    c=_DOPRI8_C,
    a=_DOPRI8_A,
    b=_DOPRI8_B,
    b_hat=_DOPRI8_B_HAT,
    order=8,
    dense=interpolant(
        (*_DOPRI8_A, _DOPRI8_B, *_DOPRI8_DENSE_A),
        stages=(0, *range(6, 17)),
        trees=(*map(bush, range(7)), _AC4, _AAAAC, _AC5, _C_AC4, _A_C_AC3),
        # Of all stages this one, so chosen, leaves the least error, and the derivative without a jump between steps.
        given={5: (0.0, 3 * _DOPRI8_B[5], -2 * _DOPRI8_B[5])},
    ),
    dense_order=7,
    dense_c=_DOPRI8_DENSE_C,
    dense_a=_DOPRI8_DENSE_A,
    source="Prince and Dormand (1981), High order embedded Runge-Kutta formulae, RK8(7)13M; interpolant made here",
)

# Kvaerno prints 0.4358665215; these are further digits of the same root of 6 g**3 - 18 g**2 + 9 g - 1, which makes R(infinity) 0.
_G3 = 0.43586652150845900
_KVAERNO3_A = (
    (0.0,),
    (_G3, _G3),
    ((-4 * _G3**2 + 6 * _G3 - 1) / (4 * _G3), (1 - 2 * _G3) / (4 * _G3), _G3),
    (
        (6 * _G3 - 1) / (12 * _G3),
        -1 / (12 * _G3 * (2 * _G3 - 1)),
        (-6 * _G3**2 + 6 * _G3 - 1) / (3 * (2 * _G3 - 1)),
        _G3,
    ),
)

KVAERNO3 = EsdirkTableau(
    c=(0.0, 2 * _G3, 1.0, 1.0),
    a=_KVAERNO3_A,
    b=_KVAERNO3_A[3],
    b_hat=(*_KVAERNO3_A[2], 0.0),
    order=3,
    dense=stiff_interpolant(_KVAERNO3_A, stages=range(4), order=3, at_infinity=None),
    dense_order=3,
    source="Kvaerno (2004), Singly diagonally implicit Runge-Kutta methods with an explicit first stage; interpolant made here",
)

_KVAERNO5_A = (
    (0.0,),
    (0.26, 0.26),
    (0.13, 0.84033320996790809, 0.26),
    (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
    (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, 0.26),
    (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26),
    (
        0.13659751177640291,
        0.0,
        -0.05496908796538376,
        -0.04118626728321046,
        0.62993304899016403,
        0.06962479448202728,
        0.26,
    ),
)

KVAERNO5 = EsdirkTableau(
    c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
    a=_KVAERNO5_A,
    b=_KVAERNO5_A[6],
    b_hat=(*_KVAERNO5_A[5], 0.0),
    order=5,
    # Stage 1 is of stage order 2 only. What is left of a component that decays at once is (1 - theta)**4 of it.
    dense=stiff_interpolant(_KVAERNO5_A, stages=(0, 2, 3, 4, 5, 6), order=4, at_infinity=(-4.0, 6.0, -4.0, 1.0)),
    dense_order=4,
    source="Kvaerno (2004), Singly diagonally implicit Runge-Kutta methods with an explicit first stage; interpolant made here",
)

TABLEAUS: dict[str, ButcherTableau] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    # the name that torchdiffeq gives it
    "adaptive_heun": HEUN,
    "ralston": RALSTON,
    "fehlberg2": FEHLBERG2,
    "rk4": RK4,
    "bosh3": BOSH3,
    "dopri5": DOPRI5,
    "tsit5": TSIT5,
    "dopri8": DOPRI8,
}

ESDIRK_TABLEAUS: dict[str, EsdirkTableau] = {"kvaerno3": KVAERNO3, "kvaerno5": KVAERNO5}
