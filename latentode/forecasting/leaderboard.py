"""Records of a benchmark as a Markdown table, and which models lose to a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from latentode.metrics.totals import MIN_COMMON

HEADLINE = {"mse": "ratio_to_blend", "mae": "ratio_to_blend_mae"}
ERRORS = {
    "mse_macro": "macro mse",
    "mse_common": "common mse",
    "mse_pooled": "pooled mse",
    "mae_mean": "mae of mean",
    "mae_median": "mae of median",
    "crps": "crps",
}
TO_FLOOR = "mse over noise floor"
LEGEND = (
    "Errors are in the protocol's units, mean ± sd over runs (seeds and splits), in brackets as ratio to the blend of the same run. "
    f"Macro: the mean over channels; common: over those with at least {MIN_COMMON} test targets, so that no handful of values decides; "
    "pooled: over all values; maes and crps are macro. Nll is of scaled values, which have no ratio."
)

FLOOR = "The noise floor is the squared deviation of the noise: what a forecast of the noise-free truth would be charged with. "


def leaderboard(records: Sequence[dict[str, Any]]) -> str:
    """Write the records of `summarise` as Markdown tables, the lowest error first, and say which models lose to a baseline."""
    first = records[0]
    floored = (TO_FLOOR,) if any("ratio_to_floor" in record["metrics"] for record in records) else ()
    lines = [
        f"# {first['dataset']}, protocol {first['protocol']}",
        "",
        f"The headline error, by which rows are sorted, is the {first['average']} mse; splits {', '.join(map(str, first['split']))}. "
        f"{LEGEND} {FLOOR if floored else ''}Source of the rules: {first['source']}",
        "",
        *_table(("model", *ERRORS.values(), *floored, "loses to"), [_errors(record, floored) for record in records]),
        "",
        *_table(
            ("model", "nll", "in 80 % band", "in 95 % band", "parameters", "s per epoch", "peak MB", "runs"),
            [_other(record) for record in records],
        ),
    ]
    lines += ["", *(f"- {text}" for text in losses(records)), ""]
    lines += [f"- {note}" for note in dict.fromkeys(note for record in records for note in record["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _errors(record: dict[str, Any], floored: Sequence[str]) -> list[str]:
    """Give the row of a model in the table of errors, with the ratio to the noise where the truth is known."""
    cells = [f"{_cell(record, name)} ({_cell(record, f'ratio_to_blend_{name}', digits=3)})" for name in ERRORS]
    lost = [f"{rival} on {', '.join(names)}" for rival, names in record["loses_to"].items()]
    cells += [_cell(record, "ratio_to_floor", digits=3)] * len(floored)
    return [title_of(record), *cells, "; ".join(lost)]


def _other(record: dict[str, Any]) -> list[str]:
    """Give the row of a model in the table of all else."""
    shares = [_cell(record, name, scale=100, digits=3) for name in ("coverage_80", "coverage_95")]
    costs = [(record["n_parameters"], ","), (record["seconds_per_epoch"], ".3g"), (record["peak_mb"], ".0f")]
    runs = f"{record['n_runs']}" + (f" ({record['n_failed']} failed)" if record["n_failed"] else "")
    return [title_of(record), _cell(record, "nll"), *shares, *(number_or_dash(*cost) for cost in costs), runs]


def title_of(record: dict[str, Any]) -> str:
    """Give the name of a row; a model on top of another baseline than the blend is told apart from that baseline alone."""
    base = record["network"]["init_args"].get("base")
    if isinstance(base, dict):
        base = base["class_path"].rpartition(".")[2]
    return record["model"] if base in (None, "blend") else f"{record['model']} (on {base})"


def losses(records: Sequence[dict[str, Any]]) -> list[str]:
    """Say how every trained model stands to the best of those that gradients do not train; where there is none, to the blend."""
    plain = _plain(records)
    found = []
    for name, ratio_name in HEADLINE.items():
        rival = min(plain, key=lambda record, name=name: sort_key(mean_of(record, name)), default=None)
        for record in records:
            if not record["is_trained"]:
                continue
            own, title = mean_of(record, name), "blend"
            if rival is None:
                ratio = mean_of(record, ratio_name)
            else:
                least = mean_of(rival, name)
                title, ratio = rival["model"], None if own is None or not least else own / least
            found.append(f"{record['model']} {_stands(ratio)} {title} on {name}{_in_brackets(ratio)}")
    return found


def find_losses(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Give the baselines to which a trained model loses, each with the headline errors on which it does.

    Args:
        record: of the model.
        records: of all rows; where none is a baseline's, the blend of the model's own runs is its rival.
    """
    if not record["is_trained"]:
        return {}
    plain = _plain(records)
    lost: dict[str, list[str]] = {}
    for name, ratio_name in HEADLINE.items():
        own = sort_key(mean_of(record, name))
        names = [rival["model"] for rival in plain if own > sort_key(mean_of(rival, name))]
        if not plain and sort_key(mean_of(record, ratio_name)) > 1:
            names = ["blend"]
        for rival in names:
            lost.setdefault(rival, []).append(name)
    return lost


def _plain(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in records if not one["is_trained"] and mean_of(one, "mse") is not None]


def mean_of(record: dict[str, Any], name: str) -> float | None:
    """Give the mean of a figure over a model's runs; None where a run has none."""
    return record["metrics"].get(name, {"mean": None})["mean"]


def sort_key(value: float | None) -> float:
    """Give the figure; what is missing comes last."""
    return math.inf if value is None else value


def number_or_dash(value: float | None, form: str) -> str:
    """Write a figure; a dash where there is none."""
    return "-" if value is None else format(value, form)


def _stands(ratio: float | None) -> str:
    if ratio is None or ratio > 1:
        return "loses to"
    return "beats" if ratio < 1 else "ties with"


def _in_brackets(ratio: float | None) -> str:
    return " (a run has no such figure)" if ratio is None else f" (ratio {ratio:.3f})"


def _cell(record: dict[str, Any], name: str, *, scale: float = 1.0, digits: int = 4) -> str:
    figure = record["metrics"].get(name, {"mean": None, "sd": None})
    if figure["mean"] is None:
        return "-"
    spread = "" if figure["sd"] is None else f" ± {scale * figure['sd']:.1g}"
    return f"{scale * figure['mean']:.{digits}g}{spread}"
