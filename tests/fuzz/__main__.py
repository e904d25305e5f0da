"""Fuzz the readers with atheris (libFuzzer, guided by coverage): `python -m tests.fuzz [NAME ...] [--runs 100000]`, or `make fuzz`.

Every reader runs in a process of its own with a limit on memory and on the time of one input. A crash, a hang, or an exception that is no
sentence of ours ends it and leaves the input in `--artifacts`; put it into tests/fuzz/cases/<reader>/, where every test run reads it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

SECONDS, MEBIBYTES, MAX_BYTES = 90, 3000, 1 << 16  # of one input, of the process, of one input


def main() -> int:
    """Fuzz some readers one after the other, print what came of it, and give 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="readers (all)")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each reader (%(default)s)")
    parser.add_argument(
        "--seconds", type=int, default=0, help="for each reader at most; 0: until all inputs are done (%(default)s)"
    )
    parser.add_argument("--artifacts", type=Path, default=Path("runs/fuzz"), help="folder for what fails (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; 0: another one every time")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.artifacts.mkdir(parents=True, exist_ok=True)
    if options.child:
        fuzz(options.names[0], options)
        return 0
    from tests.fuzz.readers import NAMES

    rows = [run_child(name, options) for name in options.names or NAMES]
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["failure"] for row in rows))


def run_child(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Fuzz one reader in a process of its own and give what libFuzzer says of it."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        name,
        "--child",
        "--runs",
        str(options.runs),
        "--seed",
        str(options.seed),
        "--seconds",
        str(options.seconds),
    ]
    done = subprocess.run(
        [*command, "--artifacts", options.artifacts], capture_output=True, text=True, errors="replace", check=False
    )
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    row: dict[str, object] = {
        "reader": name,
        "inputs": int(figures.get("number_of_executed_units", 0)),
        "seconds": round(time.perf_counter() - start, 1),
        "slowest_s": int(figures.get("slowest_unit_time_sec", 0)),
        "peak_mb": int(figures.get("peak_rss_mb", 0)),
        "failure": None,
    }
    if done.returncode:
        (options.artifacts / f"{name}.log").write_text(done.stderr)
        # The last lines of Python's traceback, or libFuzzer's own word.
        told = [
            line
            for line in done.stderr.splitlines()
            if re.match(r"\w*(Error|Exception)\b|AssertionError|SUMMARY|==\d+==", line.strip())
        ]
        row["failure"] = " | ".join(told[:3])[:500] or f"status {done.returncode}: {done.stderr[-300:]}"
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def fuzz(name: str, options: argparse.Namespace) -> None:
    """Hand a reader to libFuzzer; the process ends here."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["latentode"]):
        from tests.fuzz.readers import holds, make_reader, mutate_seed

        reader = make_reader(name)
    # On a disk that is memory where there is one: an input lives for a millisecond.
    shm = Path("/dev/shm")
    root = tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None, prefix="latentode-fuzz-")
    folder, corpus = Path(root.name) / "work", Path(root.name) / "corpus"
    folder.mkdir()
    corpus.mkdir()
    for i, content in enumerate(reader.seeds):
        (corpus / f"seed-{i}").write_bytes(content)

    def change(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return atheris.Mutate(data, max_size)
        return mutate_seed(reader, data, rng)[:max_size]

    arguments = [
        f"-runs={options.runs}", f"-seed={options.seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEBIBYTES}", f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={options.artifacts / name}-", "-print_final_stats=1", "-reload=0", "-verbosity=1",
    ]  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *arguments, str(corpus)], lambda data: holds(reader, data, folder) and None, custom_mutator=change
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
