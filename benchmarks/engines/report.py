"""How the figures are printed: a table for each case, and which targets they meet."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

COLUMNS = {
    "ms": ("ms", "{:.2f}"),
    "speedup": ("x base", "{:.2f}"),
    "overhead": ("overhead", "{:.2f}"),
    "overhead_over_eager_calls": ("(eager)", "{:.2f}"),
    "nfe": ("nfe", "{:d}"),
    "worst_error": ("worst", "{:.1e}"),
    "median_error": ("median", "{:.1e}"),
    "gradient_error": ("gradient", "{:.1e}"),
    "first_call_s": ("first s", "{:.1f}"),
    "resized_first_call_s": ("resized s", "{:.2f}"),
    "graphs_for_resized": ("new graphs", "{:d}"),
}


@dataclass(frozen=True)
class Target:
    """A figure that was asked for: `row`'s `figure` in `case` is `relation` (">=" or "<=") the `bound`."""

    case: str
    row: str
    figure: str
    relation: str
    bound: float
    is_beyond: bool = False


def reason(error: Exception) -> str:
    """Say in a line why a row has no figures."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def say(what: str) -> None:
    """Tell on stderr what is being measured: a run takes minutes."""
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


def _without_nan(value: Any) -> Any:
    """Give None for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_case(name: str, case: dict[str, Any]) -> None:
    """Print one case as a table."""
    print(f"\n{name}: {case['about']}")
    bare = ", ".join(f"{kind} {us:.1f} us" for kind, us in case["bare_us"].items())
    print(f"   {case['rounds']} rounds, {case['load']}; bare call: {bare}; x base: times faster than {case['base']}")
    print_table(case["rows"], COLUMNS)
    for row, why in case["skipped"].items():
        print(f"   left out: {row}: {why}")


def print_table(rows: dict[str, dict[str, Any]], columns: dict[str, tuple[str, str]]) -> None:
    """Print rows of figures, without the columns that no row has."""
    used = [key for key in columns if any(key in row for row in rows.values())]
    cells = [["", *(columns[key][0] for key in used)]]
    cells += [[name, *(_cell(columns[key][1], row.get(key)) for key in used)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print(
            "   " + line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)), sep="  "
        )


def _cell(form: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return form.format(value)


def print_equal_error(rows: dict[str, dict[str, Any]]) -> None:
    """Print calls and milliseconds at equal error of the worst sample."""
    for name, row in rows.items():
        print(
            f"\nequal error, {name}: {row['about']}; eager, calls of the field and ms where the worst sample errs by ..."
        )
        if "error" not in row:
            print("   ours or torchode is missing")
            continue
        for library, figures in row["at_equal_error"].items():
            pairs = zip(figures["nfe"], figures["ms"], strict=True)
            cells = (f"{_cell('{:.0f}', n):>8} /{_cell('{:.1f}', ms):>8}" for n, ms in pairs)
            print(f"   {library:14}", *cells)
        print(f"   {'at error':14}", *(f"{level:17.1e} " for level in row["error"]))
        for peer in ("torchode", "torchdiffeq"):
            if f"nfe_over_{peer}" in row:
                print(f"   ours over {peer}: calls {row[f'nfe_over_{peer}']:.3f}, ms {row[f'ms_over_{peer}']:.3f}")


def print_targets(targets: Iterable[Target], cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Print which targets are met, and count what was left out; returns the same for the JSON."""
    print("\nTargets")
    judged = []
    for target in targets:
        if target.case not in cases:
            continue
        figure = cases[target.case]["rows"].get(target.row, {}).get(target.figure)
        if figure is None:
            verdict = "not measured"
        else:
            is_met = figure >= target.bound if target.relation == ">=" else figure <= target.bound
            verdict = "met" if is_met else "NOT met"
        shown = "-" if figure is None else f"{figure:.3g}"
        beyond = " (beyond what is asked)" if target.is_beyond else ""
        what = f"{target.case}, {target.row}: {target.figure} {target.relation} {target.bound:g}{beyond}"
        print(f"   {verdict:13} {shown:>8}   {what}")
        judged.append({**asdict(target), "value": figure, "verdict": verdict})
    left_out = [f"{name}: {row}" for name, case in cases.items() for row in case["skipped"]]
    verdicts = [t["verdict"] for t in judged]
    print(
        f"\n{verdicts.count('met')} targets met, {verdicts.count('NOT met')} not met, "
        f"{verdicts.count('not measured')} not measured; {len(left_out)} rows left out"
    )
    for row in left_out:
        print(f"   left out: {row}")
    return judged
