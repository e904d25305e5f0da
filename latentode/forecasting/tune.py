"""Tuning: fit again and again with other settings, chosen by what the fits before have shown, and leave the best as a run.

Optuna chooses (tree-structured Parzen estimators, Bergstra et al. 2011) and ends hopeless trials; its study is a SQLite file in the run
folder. Only trials that have come to an end stand in it, each written in one transaction, and what is tried next is a function of these and
the seed alone: a tuning that was killed at any moment and went on ends as one that was left in peace.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from latentode.data.plain import flatten
from latentode.errors import InputError, LatentODEError, RunError
from latentode.files import hold_folder, write_json, write_whole
from latentode.forecasting.runs import CHECKPOINT, FILES
from latentode.forecasting.search_space import Setting, as_option, as_text, check_keys, check_optuna, read_space

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    from latentode.training.trial import TrialResult, TrialSetup

STUDY, SEARCH, BASE = "study.db", "tune.yaml", "base.yaml"
STUDY_NAME = "latentode"  # Optuna's Hyperband deals trials to brackets by it
PRUNERS = ("median", "hyperband", "none")
# A trial that takes the whole process down every time (the machine's memory, say) must not keep the others from their turn.
MAX_STARTS = 3
STARTS = "starts of trial"  # in the study, with the number behind it

Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneSettings:
    """How long and how to search.

    Attributes:
        n_trials: trials in all, those of an earlier start included.
        timeout: seconds after which no further trial begins; None: no limit.
        pruner: "median" ends a trial whose best score so far is behind the median of the others' at that epoch; "hyperband" spends more
            epochs on fewer trials; "none".
        seed: of what is tried.
        final_epochs: epochs that the best settings are trained for once more, in the end; None: the best trial is the run.

    Raises:
        InputError: a setting is out of its range.
    """

    n_trials: int = 20
    timeout: float | None = None
    pruner: str = "median"
    seed: int = 0
    final_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.n_trials < 1:
            raise InputError(f"trials is {self.n_trials}; give a whole number from 1 up.")
        if self.pruner not in PRUNERS:
            raise InputError(f"pruner is '{self.pruner}'; choose one of {', '.join(PRUNERS)}.")


def tune(
    space: str | Path | None,
    run_dir: str | Path,
    arguments: Sequence[str] = (),
    *,
    settings: TuneSettings | None = None,
    resume: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Search for the settings that forecast the validation part best, and leave the best fit as a run folder.

    The first trial is the configuration as it stands, as far as the space holds it. What is lowered is the squared error on validation,
    balanced over channels, in units of what a blend of last value and means leaves in training. The test part is scored once, for the
    best trial, in the end.

    Args:
        space: YAML file of a search space, see `search_space.py`; None: that of the study that is gone on with.
        run_dir: folder of the run; trials lie in `trials/000` and so on, the study in `study.db`, `study.json` and `trials.csv`.
        arguments: of the fit, as on the command line: `["--config", "quickstart.yaml", "--data.path", "data.csv"]`; none: those of
            the study that is gone on with.
        settings: of the search.
        resume: go on with the study in `run_dir`, if there is one.
        say: hears one line per trial.

    Returns:
        What stands in `study.json`: `best` (number, score, params), `trials`, `counts` by state, `importance` by setting.

    Raises:
        InputError: Optuna is missing, the space or an argument is wrong, or `run_dir` holds a study that was not to be gone on with.
        RunError: the study in `run_dir` is of other settings or another table, or in use, or no trial has come to an end.
        DataError: nothing trainable is in the table.
    """
    check_optuna()
    settings = settings or TuneSettings()
    tuning = Tuning.open(space, Path(run_dir), list(arguments), settings, resume=resume)
    with hold_folder(tuning.run_dir):
        return tuning.run(say)


@dataclass
class Tuning:
    """A study in its folder, and what its trials share.

    Attributes:
        run_dir: folder of the study.
        space: what is searched.
        setup: of the trials.
        settings: of the search.
        study: the trials that have come to an end.
    """

    run_dir: Path
    space: list[Setting]
    setup: TrialSetup
    settings: TuneSettings
    study: Study

    @classmethod
    def open(
        cls, space: str | Path | None, run_dir: Path, arguments: list[str], settings: TuneSettings, *, resume: bool
    ) -> Tuning:
        """Begin a study, or open the one to go on with; see `tune`."""
        from latentode.training.trial import TrialSetup

        if run_dir.exists() and not run_dir.is_dir():
            raise InputError(f"run_dir {run_dir} is a file; name a folder.")
        # Written last, so that with it there is a study.
        is_begun = (run_dir / SEARCH).is_file()
        if is_begun and not resume:
            raise InputError(f"{run_dir} holds a study already; go on with it by --resume, or name another folder.")
        if space is None and not is_begun:
            raise InputError(
                f"{run_dir} holds no study to go on with; name a search space, such as --space configs/tune/default.yaml."
            )
        read = read_space(space if space is not None else run_dir / SEARCH)
        setup = TrialSetup.of(arguments or ["--config", str(run_dir / BASE)] if is_begun else arguments)
        check_keys(read, setup.keys, str(space or run_dir / SEARCH))
        if is_begun:
            tuning = cls(run_dir, read, setup, settings, _open_study(run_dir))
            tuning._check_same()
            return tuning
        run_dir.mkdir(parents=True, exist_ok=True)
        write_whole(run_dir / BASE, lambda part: part.write_text(setup.config, encoding="utf-8"))
        tuning = cls(run_dir, read, setup, settings, _new_study(run_dir))
        tuning._check_values(str(space))
        for name, value in tuning._terms().items():
            tuning.study.set_user_attr(name, value)
        content = Path(space).read_text(encoding="utf-8") if space is not None else ""
        write_whole(run_dir / SEARCH, lambda part: part.write_text(content, encoding="utf-8"))
        return tuning

    def _terms(self) -> dict[str, Any]:
        """Give what must stay the same for trials to be of one study."""
        space = {f"space {s.key}": json.loads(json.dumps([*s.extremes(), s.is_log, s.step])) for s in self.space}
        fit = {
            f"fit {key}": value
            for key, value in flatten(yaml.safe_load(self.setup.config)).items()
            if key != "data.path"
        }
        return {"table": self.setup.digest, "seed": self.settings.seed, "pruner": self.settings.pruner, **space, **fit}

    def _check_same(self) -> None:
        """Refuse to go on with a study of other settings.

        Raises:
            RunError: naming the first setting that differs.
        """
        before = {name: value for name, value in self.study.user_attrs.items() if not name.startswith(STARTS)}
        ours = self._terms()
        for name in sorted({*before, *ours}):
            if before.get(name) == ours.get(name):
                continue
            if name == "table":
                raise RunError(
                    f"{self.run_dir}: the table has changed since the study began; begin another in a new folder."
                )
            raise RunError(
                f"{self.run_dir}: the study began with {name.removeprefix('fit ')} {before.get(name)!r}, now it is "
                f"{ours.get(name)!r}; leave it as it was, or begin another study in a new folder."
            )

    def _check_values(self, source: str) -> None:
        """Refuse a value that its setting does not take, before hours of trials find it.

        Raises:
            InputError: naming file, line, key and value.
        """
        from latentode.training.trial import takes

        for setting in self.space:
            for value in setting.extremes():
                reason = takes(self.run_dir / BASE, [as_option(setting.key, as_text(value))])
                if reason is not None:
                    raise InputError(
                        f"{source}:{setting.line}: {setting.key} does not take {value!r} ({reason[:200]})."
                    )

    def run(self, say: Say) -> dict[str, Any]:
        """Try until all trials are there or time is up, and leave the best one as the run."""
        start = time.monotonic()
        limit = self.settings.timeout
        while (number := len(self.study.trials)) < self.settings.n_trials:
            if limit is not None and time.monotonic() - start >= limit:
                say(f"time is up after {number} of {self.settings.n_trials} trials; --resume goes on with the others.")
                break
            self._try(number)
            write_tables(self.run_dir, self.study, self.space)
            say(self._tell(self.study.trials[-1]))
        return self._leave_best(say)

    def _try(self, number: int) -> None:
        """Run one trial and put it into the study, whatever came of it."""
        import optuna

        # In memory, and into the study's file only when it is over: a trial that is killed was never there.
        study = optuna.create_study(
            study_name=STUDY_NAME, sampler=_sampler(self.settings.seed, number), pruner=_pruner(self.settings.pruner)
        )
        study.add_trials(self.study.get_trials(deepcopy=False))
        if number == 0:
            study.enqueue_trial(self._as_it_stands())
        trial = study.ask({setting.key: setting.distribution() for setting in self.space})
        started = time.monotonic()
        try:
            with self._counted(number):
                result = self._fit(trial)
        except (OSError, KeyboardInterrupt):
            # A full disk, say: no other trial would fare better.
            raise
        except Exception as error:
            trial.set_user_attr("error", " ".join(str(error).split())[:500] or type(error).__name__)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            _thin_out(self._folder(number))
        else:
            trial.set_user_attr("n_epochs", result.n_epochs)
            trial.set_user_attr("best_epoch", result.best_epoch)
            if result.is_pruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                _thin_out(self._folder(number))
            else:
                study.tell(trial, result.score)
        frozen = study.trials[number]
        frozen.user_attrs["seconds"] = round(time.monotonic() - started, 2)
        self.study.add_trial(frozen)

    def _fit(self, trial: Trial) -> TrialResult:
        from latentode.training.trial import run_trial

        folder = self._folder(trial.number)
        # What a killed start has left.
        shutil.rmtree(folder, ignore_errors=True)

        def report(epoch: int, score: float) -> bool:
            trial.report(score, epoch)
            return trial.should_prune()

        return run_trial(self.setup, self.run_dir / BASE, self._options(trial.params), folder, report)

    @contextlib.contextmanager
    def _counted(self, number: int) -> Iterator[None]:
        """Count how often a trial was begun.

        Raises:
            LatentODEError: it has never come back.
        """
        name = f"{STARTS} {number}"
        n_starts = self.study.user_attrs.get(name, 0)
        if n_starts >= MAX_STARTS:
            raise LatentODEError(
                f"it was begun {n_starts} times, and every time the process was killed (out of memory?)"
            )
        self.study.set_user_attr(name, n_starts + 1)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            # Stopped by somebody: that says nothing of the trial.
            self.study.set_user_attr(name, n_starts)
            raise

    def _folder(self, number: int) -> Path:
        return self.run_dir / "trials" / f"{number:03d}"

    def _options(self, params: Mapping[str, Any]) -> list[str]:
        # A part's class before its settings.
        return [as_option(key, params[key]) for key in sorted(params, key=lambda key: key.count("."))]

    def _as_it_stands(self) -> dict[str, Any]:
        """Give the configuration's own values, as far as the space holds them."""
        own = {}
        for setting in self.space:
            value = self.setup.values.get(setting.key, self.setup.values.get(f"{setting.key}.class_path"))
            # A class may be named with its package or without.
            for choice in setting.choices or ():
                if isinstance(choice, str) and isinstance(value, str) and value.endswith(f".{choice}"):
                    value = choice
            if setting.holds(value):
                own[setting.key] = as_text(value)
        return own

    def _tell(self, trial: FrozenTrial) -> str:
        """Give one line on a trial."""
        head = f"trial {trial.number} ({trial.number + 1} of {self.settings.n_trials})"
        best = _best(self.study)
        so_far = "" if best is None else f"; best {best.value:.4f}, trial {best.number}"
        if trial.state.name == "FAIL":
            return f"{head}: failed ({trial.user_attrs['error']}){so_far}"
        n_epochs, seconds = trial.user_attrs["n_epochs"], trial.user_attrs["seconds"]
        ended = "ended early" if trial.state.name == "PRUNED" else f"score {trial.value:.4f}"
        return f"{head}: {ended} after {n_epochs} epochs, {seconds:.0f} s{so_far}"

    def _leave_best(self, say: Say) -> dict[str, Any]:
        """Leave the best trial as the run, with its figures on the test part."""
        from latentode.training.trial import run_trial, score_test

        best = _best(self.study)
        if best is None:
            reasons = [trial.user_attrs["error"] for trial in self.study.trials if "error" in trial.user_attrs]
            reason = f"; the last one: {reasons[-1].rstrip('.')}" if reasons else ""
            raise LatentODEError(
                f"{self.run_dir}: none of {len(self.study.trials)} trials has come to its end{reason}. Look at the settings in "
                f"{self.run_dir / BASE}."
            )
        folder, options = self._folder(best.number), self._options(best.params)
        if self.settings.final_epochs is not None:
            say(f"fitting the settings of trial {best.number} over {self.settings.final_epochs} epochs.")
            folder, options = (
                self.run_dir / "trials" / "final",
                [*options, f"--trainer.max_epochs={self.settings.final_epochs}"],
            )
            shutil.rmtree(folder, ignore_errors=True)
            run_trial(self.setup, self.run_dir / BASE, options, folder)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics["test"] = score_test(self.setup, self.run_dir / BASE, options, folder / CHECKPOINT)
        _copy_run(folder, self.run_dir, metrics)
        return write_tables(self.run_dir, self.study, self.space)


def _open_study(run_dir: Path) -> Study:
    import optuna

    if not (run_dir / STUDY).is_file():
        raise RunError(
            f"{run_dir} holds no {STUDY}, so that nothing is known of its trials; begin another study in a new folder."
        )
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=_storage(run_dir))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{run_dir / STUDY} cannot be read ({reason}); begin another study in a new folder.") from error


def _new_study(run_dir: Path) -> Study:
    import optuna

    # Of a start that was killed before there was a study.
    (run_dir / STUDY).unlink(missing_ok=True)
    return optuna.create_study(study_name=STUDY_NAME, storage=_storage(run_dir))


def _storage(run_dir: Path) -> str:
    return f"sqlite:///{(run_dir / STUDY).resolve()}"


def _sampler(seed: int, number: int) -> Any:
    """Give the sampler of one trial: what it draws depends on the trials before and on these two numbers, not on how often it was asked."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def _pruner(name: str) -> Any:
    from optuna import pruners

    if name == "hyperband":
        return pruners.HyperbandPruner()
    # The first epochs tell little: learning rates are still rising.
    return pruners.MedianPruner(n_warmup_steps=2) if name == "median" else pruners.NopPruner()


def _best(study: Study) -> FrozenTrial | None:
    """Give the complete trial with the lowest score, of equal ones the first."""
    ended = [trial for trial in study.trials if trial.state.name == "COMPLETE" and trial.value is not None]
    return min(ended, key=lambda trial: (trial.value, trial.number), default=None)


def _thin_out(folder: Path) -> None:
    """Leave settings and log of a trial that has come to nothing."""
    for path in (*folder.glob("*.ckpt"), folder / "metrics.json"):
        path.unlink(missing_ok=True)


def _copy_run(source: Path, target: Path, metrics: dict[str, Any]) -> None:
    """Put the files of a run into another folder, each whole, with these metrics."""
    config = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    config["run_dir"] = str(target)
    text = yaml.safe_dump(config, sort_keys=False)
    write_whole(target / "config.yaml", lambda part: part.write_text(text, encoding="utf-8"))
    for name in FILES:
        if name not in ("config.yaml", "metrics.json"):
            write_whole(target / name, lambda part, name=name: shutil.copyfile(source / name, part))
    write_json(target / "metrics.json", metrics)


def write_tables(run_dir: Path, study: Study, space: Sequence[Setting]) -> dict[str, Any]:
    """Write `study.json` and `trials.csv`, and give what stands in the first."""
    rows = [_row(trial) for trial in study.trials]
    best = _best(study)
    states = [row["state"] for row in rows]
    summary = {
        "metric": "squared error on validation, in units of what a blend of last value and means leaves in training",
        "best": None if best is None else _row(best),
        "counts": {state: states.count(state) for state in dict.fromkeys(states)},
        "importance": importance(study),
        "trials": rows,
    }
    write_json(run_dir / "study.json", summary)
    keys = [setting.key for setting in space]
    figures = ("number", "state", "score", "n_epochs", "best_epoch", "seconds")
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*figures, *keys, "error"])
    for row in rows:
        writer.writerow([*(row[name] for name in figures), *(row["params"].get(key) for key in keys), row["error"]])
    write_whole(run_dir / "trials.csv", lambda part: part.write_text(buffer.getvalue(), encoding="utf-8"))
    return summary


def _row(trial: FrozenTrial) -> dict[str, Any]:
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return {
        "number": trial.number,
        "state": states[trial.state.name],
        "score": trial.value,
        "params": trial.params,
        "epochs": [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)],
        **{name: trial.user_attrs.get(name) for name in ("n_epochs", "best_epoch", "seconds", "error")},
    }


def importance(study: Study) -> dict[str, float]:
    """Give each setting's share of how much scores differ (functional analysis of variance, Hutter et al. 2014), largest first.

    Empty where fewer than four trials have come to an end, or where they all have the same score.
    """
    import optuna

    ended = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(ended) < 4 or len({trial.value for trial in ended}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
