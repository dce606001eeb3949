"""How long the command takes to start, beside a bare interpreter in the same run.

    python benchmarks/startup.py --rounds 15 --json figures.json

A figure is a ratio: the time of the command over that of `python -c pass`, which
has read nothing and imported nothing. Lower is better. See README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _rounds import machine, print_machine

import surgery as sg

BARE = [sys.executable, "-c", "pass"]


@dataclass
class Start:
    """One command line: its time over that of a bare interpreter, and the most that was promised."""

    name: str
    ratio: float
    low: float
    high: float
    ms: float
    limit: float | None

    def __str__(self) -> str:
        spread = f"({self.low:.2f}-{self.high:.2f})"
        text = f"  {self.ratio:6.2f}x  {spread:<15} {self.ms:6.1f} ms  {self.name:<20}"
        if self.limit is None:
            return text.rstrip()
        return f"{text} limit {self.limit:g}x: {'met' if self.ratio <= self.limit else 'NOT MET'}"


def commands(file: Path) -> dict[str, tuple[list[str], float | None]]:
    """What is started, by name, with its limit."""
    surgery = [sys.executable, "-m", "surgery"]
    return {
        "import surgery": ([sys.executable, "-c", "import surgery"], None),
        "import numpy": ([sys.executable, "-c", "import numpy"], None),
        "surgery --help": ([*surgery, "--help"], 6.0),
        "surgery ls FILE": ([*surgery, "ls", str(file)], 14.0),
        "surgery show FILE": ([*surgery, "show", str(file)], 14.0),
        "surgery plan FILE": ([*surgery, "plan", str(file), "--recipe", "hf/bert"], 14.0),
    }


def write_checkpoint(file: Path) -> None:
    """Write the embeddings and two layers of a small BERT: enough to be planned by a recipe."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    tree = {
        f"embeddings.{name}_embeddings.weight": weight(8, 4) for name in ("word", "position", "token_type")
    }
    norms, linears = ["embeddings.LayerNorm"], {}
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        linears |= {f"{layer}.attention.self.{name}": (4, 4) for name in ("query", "key", "value")}
        linears |= {
            f"{layer}.attention.output.dense": (4, 4),
            f"{layer}.intermediate.dense": (16, 4),
            f"{layer}.output.dense": (4, 16),
        }
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tree |= {f"{name}.weight": weight(*shape) for name, shape in linears.items()}
    tree |= {f"{name}.bias": weight(shape[0]) for name, shape in linears.items()}
    tree |= {f"{name}.{part}": weight(4) for name in norms for part in ("weight", "bias")}
    sg.save(tree, file)


def clock(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(file: Path, rounds: int) -> list[Start]:
    """Run everything in turns; a ratio is taken within a round, the median is the figure."""
    wanted = {"": (BARE, None), **commands(file)}
    for command, _ in wanted.values():
        clock(command)  # compiled files and the disk's cache
    times: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(rounds):
        for name, (command, _) in wanted.items():
            times[name].append(clock(command))
    found = []
    for name, (_, limit) in wanted.items():
        ratios = [mine / bare for mine, bare in zip(times[name], times[""], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        ms = statistics.median(times[name]) * 1e3
        found.append(Start(name or "python -c pass", middle, low, high, ms, limit))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    options = parser.parse_args()
    about = machine("numpy", "click", "rich")
    print_machine(about)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bert.safetensors"
        write_checkpoint(file)
        found = measure(file, options.rounds)
    print("\ntime over that of a bare interpreter, median (quartiles)")
    for one in found:
        print(one)
    if options.json:
        Path(options.json).write_text(
            json.dumps({"machine": about, "starts": [asdict(one) for one in found]}, indent=1), "utf-8"
        )


if __name__ == "__main__":
    main()
