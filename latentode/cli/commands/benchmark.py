"""`latentode benchmark`: models on a standard data set, by its published rules."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentode.cli.parser import (
    OK,
    Parser,
    check_outputs,
    choose_device,
    count,
    give,
    number,
    show_progress,
    tell,
    words,
)
from latentode.errors import InputError
from latentode.files import write_whole

SUMMARY = "train and score models on a standard data set with its published split"
EXAMPLE = "latentode benchmark physionet2012 --model blend,gradient_boosting,latent_ode --seeds 3 --out results.json"

FIT = ("max_epochs", "patience", "learning_rate", "weight_decay")


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("dataset", metavar="NAME", nargs="?", help="of a data set; --list shows them")
    parser.add_argument("--list", action="store_true", help="show data sets, protocols and models, and exit")
    parser.add_argument("--protocol", help="published rules to follow (left out: the first of the data set)")
    parser.add_argument(
        "--model",
        default="constant,last_value,blend,gradient_boosting,latent_ode",
        help="short names or YAML files of models, such as configs/models/linear.yaml, with commas (%(default)s)",
    )
    parser.add_argument("--seeds", default="3", help="how many, of trained models (%(default)s)")
    parser.add_argument("--splits", help="random states or folds, with commas, or all (left out: the first)")
    parser.add_argument("--data_dir", help="folder of the data (left out: $LATENTODE_DATA, then ~/.cache/latentode)")
    parser.add_argument("--missing", help="of a simulated system: share of values dropped")
    parser.add_argument("--sampling", help="of a simulated system: uniform, poisson, bursty or informative times")
    parser.add_argument("--n_series", help="of a simulated system: how many series")
    parser.add_argument("--max_epochs", help="epochs at most (30)")
    parser.add_argument("--patience", help="epochs without improvement before training ends (30)")
    parser.add_argument("--learning_rate", help="highest learning rate (0.002)")
    parser.add_argument("--weight_decay", help="of AdamW (0.01)")
    parser.add_argument("--batch_size", default="64", help="windows per training step (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--out", help="JSON file to write; leaderboard and picture go beside it as .md and .png")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    if options.list or options.dataset is None:
        return _list(options.list)
    from latentode.forecasting.benchmark import BenchmarkSettings, choose_protocol, run_benchmark
    from latentode.forecasting.leaderboard import leaderboard
    from latentode.plots import plot_leaderboard, save_figure

    if options.out is None:
        raise InputError("benchmark writes its records into a file; name it with --out results.json.")
    check_outputs(report=options.out)
    fit: dict[str, Any] = {name: number(getattr(options, name), name) for name in FIT if getattr(options, name)}
    fit |= {name: count(getattr(options, name), name) for name in ("max_epochs", "patience") if name in fit}
    fit["device"] = "gpu" if choose_device(options.device) != "cpu" else "cpu"
    settings = BenchmarkSettings(
        options.dataset,
        protocol=options.protocol,
        models=tuple(words(options.model) or ()),
        seeds=tuple(range(count(options.seeds, "seeds"))),
        data_dir=None if options.data_dir is None else Path(options.data_dir),
        observing=_observing(options),
        fit=fit,
        batch_size=count(options.batch_size, "batch_size"),
    )
    settings = replace(settings, splits=_splits(options.splits, choose_protocol(settings).splits))
    protocol = choose_protocol(settings)
    out = Path(options.out)
    tell(f"{settings.dataset}, protocol {protocol.name}: {protocol.rules}")
    records = run_benchmark(settings, out, say=show_progress)
    text = leaderboard(records)
    write_whole(out.with_suffix(".md"), lambda part: part.write_text(text, encoding="utf-8"))
    figure = plot_leaderboard(records, title=f"{settings.dataset}, {protocol.name}")
    save_figure(figure, out.with_suffix(".png"))
    give(records, lambda: print(text))
    tell(f"{out}: {len(records)} records; {out.with_suffix('.md')}: leaderboard; {out.with_suffix('.png')}: picture")
    return OK


def _list(was_asked: bool) -> int:
    from latentode.data.datasets import DATASETS

    if not was_asked:
        raise InputError(f"benchmark needs the name of a data set: {', '.join(DATASETS)}.")
    give(_offered(), lambda: _show_offered(_offered()))
    return OK


def _offered() -> dict[str, Any]:
    """Give data sets with their protocols, and models."""
    from latentode.data.datasets import DATASETS
    from latentode.models.registry import MODELS

    found: dict[str, Any] = {}
    for name, module in DATASETS.items():
        # Formulas are written for a page of documentation; on a terminal their marks are in the way.
        summary = re.sub(r":math:`([^`]*)`", r"\1", (module.__doc__ or "").splitlines()[0])
        protocols = {
            key: {"splits": list(protocol.splits), "average": protocol.average}
            for key, protocol in module.PROTOCOLS.items()
        }
        found[name] = {"summary": summary, "protocols": protocols}
    return {"datasets": found, "models": list(MODELS)}


def _show_offered(offered: dict[str, Any]) -> None:
    for name, dataset in offered["datasets"].items():
        print(f"{name}: {dataset['summary']}")
        for key, protocol in dataset["protocols"].items():
            splits = ", ".join(map(str, protocol["splits"]))
            print(f"    --protocol {key}: splits {splits}; {protocol['average']} averages")
    print(f"models: {', '.join(offered['models'])}, or a YAML file of one")


def _observing(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.missing is not None:
        found["missing"] = number(options.missing, "missing")
    if options.sampling is not None:
        found["sampling"] = options.sampling
    if options.n_series is not None:
        found["n_series"] = count(options.n_series, "n_series")
    return found


def _splits(text: str | None, published: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return published[:1]
    if text == "all":
        return published
    return tuple(count(part, "splits", least=0) for part in text.split(","))
