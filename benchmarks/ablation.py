"""The default model with one part off, or one more on: `python benchmarks/ablation.py --data_dir DATA --out FILE`.

Every variant is trained and scored by `latentode benchmark`'s own code, so that runs are kept and read back. The JSON holds the records,
the Markdown beside it every error as ratio to the blend of the same run, on test and on validation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latentode.files import write_json, write_whole
from latentode.forecasting.benchmark import BenchmarkSettings, choose_protocol, run_benchmark
from latentode.forecasting.leaderboard import number_or_dash
from latentode.models import AttentionEncoder, ConstantState, GaussianDecoder, LatentODE, MLPField
from latentode.models.registry import as_class_path, to_plain
from latentode.training import fitting

FIGURES = {
    "mse_macro": "macro mse",
    "mae_mean": "mae of mean",
    "mae_median": "mae of median",
    "mse_pooled": "pooled mse",
}


COSTS = {"n_parameters": ",", "seconds_per_epoch": ".3g", "n_runs": ""}


@dataclass(frozen=True)
class Lever:
    """One part of the default model, off, or one more, on.

    Attributes:
        what: what stands in its place.
        make: builds the variant.
        average: whether training averages weights, which is no setting of the model.
    """

    what: str
    make: Callable[[], LatentODE]
    average: bool = True


LEVERS = {
    "default": Lever("the default model", LatentODE),
    "shared_state": Lever(
        "one latent state per series, not per channel", lambda: LatentODE(AttentionEncoder(states="series"))
    ),
    "no_mixing": Lever("channels do not attend to each other", lambda: LatentODE(AttentionEncoder(n_layers=0))),
    "no_summary": Lever(
        "the encoder is told no figures of a channel", lambda: LatentODE(AttentionEncoder(reads_summary=False))
    ),
    "course": Lever("the encoder is told a smoothed course, too", lambda: LatentODE(AttentionEncoder(n_lags=16))),
    "no_base": Lever("the latent path alone, without a base", lambda: LatentODE(base=None)),
    "constant_state": Lever("the state does not move", lambda: LatentODE(dynamics=ConstantState())),
    "fixed_steps": Lever(
        "Runge-Kutta steps of a quarter of the horizon, not adaptive",
        lambda: LatentODE(dynamics=MLPField(method="rk4", step_size=0.25)),
    ),
    "gaussian": Lever("a Gaussian per target, not quantiles", lambda: LatentODE(decoder=GaussianDecoder())),
    "no_dropout": Lever("no dropout", lambda: LatentODE(AttentionEncoder(dropout=0.0))),
    "thinning": Lever("histories read with up to half of their values hidden", lambda: LatentODE(thinning=0.5)),
    "no_averaging": Lever("the weights of the last step, not their average", LatentODE, average=False),
    "no_balance": Lever("every value counts the same in the loss", lambda: LatentODE(balance=0.0)),
}


@contextmanager
def averaging(is_on: bool) -> Iterator[None]:
    """Train with the average of weights, or with the average over one step, which is the weights themselves."""
    decay = fitting.EMA_DECAY
    fitting.EMA_DECAY = decay if is_on else 0.0
    try:
        yield
    finally:
        fitting.EMA_DECAY = decay


def write_variants(names: list[str], folder: Path) -> dict[str, str]:
    """Write each variant as a YAML file, by which a row can be told again; give the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.yaml" for name in names}
    for name, path in paths.items():
        text = yaml.safe_dump(as_class_path(to_plain(LEVERS[name].make())), sort_keys=False)
        write_whole(path, lambda part, text=f"# {LEVERS[name].what}\n{text}": part.write_text(text, encoding="utf-8"))
    return {name: str(path) for name, path in paths.items()}


def run(names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the variants and give their records, in the order of `names`."""
    paths = write_variants(names, options.out.with_name(f"{options.out.stem}_models"))
    records = []
    for is_on in (True, False):
        models = tuple(paths[name] for name in names if LEVERS[name].average is is_on)
        if not models:
            continue
        settings = BenchmarkSettings(
            options.dataset,
            models=models,
            seeds=tuple(range(options.seeds)),
            data_dir=options.data_dir,
            observing={} if options.n_series is None else {"n_series": options.n_series},
            fit={"max_epochs": options.max_epochs, "device": options.device},
        )
        known = choose_protocol(settings).splits
        splits = known if options.splits == "all" else tuple(int(part) for part in options.splits.split(","))
        settings = BenchmarkSettings(**{**vars(settings), "splits": splits})
        part = options.out.with_name(f"{options.out.stem}_{'averaged' if is_on else 'plain'}.json")
        with averaging(is_on):
            records += run_benchmark(settings, part, say=lambda line: print(line, flush=True))
    return sorted(records, key=lambda record: names.index(record["model"]))


def table(records: list[dict[str, Any]]) -> str:
    """Write the records as Markdown."""
    heads = [f"{title}, {part}" for title in FIGURES.values() for part in ("test", "validation")]
    lines = [
        f"# Ablation on {records[0]['dataset']}, protocol {records[0]['protocol']}",
        "",
        "Ratios to the blend of the same run, mean ± sd over runs; what a part is worth is decided on validation.",
        "",
        f"| off | what stands in its place | {' | '.join(heads)} | parameters | s per epoch | runs |",
        "| --- " * (len(heads) + 5) + "|",
    ]
    for record in records:
        cells = [
            _cell(record[part][f"ratio_to_blend_{name}"]) for name in FIGURES for part in ("metrics", "validation")
        ]
        costs = " | ".join(number_or_dash(record[key], form) for key, form in COSTS.items())
        lines.append(f"| {record['model']} | {LEVERS[record['model']].what} | {' | '.join(cells)} | {costs} |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, float | None]) -> str:
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.4f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.1g}")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="physionet2012", help="with its first protocol (%(default)s)")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--n_series", type=int, help="of a simulated data set")
    parser.add_argument("--levers", default=",".join(LEVERS), help="names, with commas (%(default)s)")
    parser.add_argument("--splits", default="42", help="random states, with commas, or all (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="how many (%(default)s)")
    parser.add_argument("--max_epochs", type=int, default=30)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--out", type=Path, default=Path("ablation.json"), help="JSON file (%(default)s)")
    options = parser.parse_args()
    names = options.levers.split(",")
    unknown = [name for name in names if name not in LEVERS]
    if unknown:
        parser.error(f"there is no lever {unknown[0]}; there are {', '.join(LEVERS)}")
    records = run(names, options)
    text = table(records)
    write_json(options.out, records)
    write_whole(options.out.with_suffix(".md"), lambda part: part.write_text(text, encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    main()
