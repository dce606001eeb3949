"""Large trees where they live: parameters and Adam's moments on one device.

    python benchmarks/device.py --device cuda --gb 4 --json figures.json
    python benchmarks/device.py --device cpu --gb 0.25

Every way is compared with the loop that users write, and its speed with a copy of
the same bytes on the same device in the same run: the limit of what moves bytes.
What moves none (a rename, a graft, a partition) is given as a time. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from _rounds import machine, print_machine

import surgery as sg

Ready = Callable[[], Any]
MOVES_NOTHING = "structure"


@dataclass
class Figure:
    """One way of doing one thing.

    Attributes:
        library, case, way: what was done, by whom.
        ms: the median time.
        of_copy: achieved bandwidth over that of a copy on this device; None where no bytes move.
        extra_gb: the most device memory in use beyond what was there before; None where
            the device does not count it.
    """

    library: str
    case: str
    way: str
    ms: float
    of_copy: float | None
    extra_gb: float | None

    def __str__(self) -> str:
        speed = "       " if self.of_copy is None else f"{self.of_copy:6.0%}"
        memory = "not counted" if self.extra_gb is None else f"{self.extra_gb:.2f} GB more"
        return f"  {self.ms:10.2f} ms  {speed}  {memory:<13}  {self.way}"


@dataclass
class Case:
    """One edit, each way of doing it, and how many bytes a way must move."""

    name: str
    ways: dict[str, Any]
    moved: int


def cases(world: Any, size: int) -> Iterator[Case]:
    """All edits of a world, each checked against the loop by hand before it is timed."""
    share = 3 / 11  # of the bytes: a block has 3 + 4 + 4 squares, and qkv is 3 of them
    edits = {
        "transpose": ([(world.kernel, world.kernel.replace(":**", ""), sg.ops.transpose())], size),
        "split": ([(world.qkv, [*world.parts], sg.ops.split(axis=world.out_axis))], int(size * share)),
        "stack": ([(*world.layer, sg.ops.stack())], size),
    }
    for name, (rules, moved) in edits.items():
        plan = sg.plan(rules, world.params, rest="keep")
        assert sg.equal(list(world.result(world.edit(plan))), list(world.by_hand(name))), name
        ways = {
            "surgery, leaf by leaf": lambda plan=plan: world.edit(plan),
            **{f"surgery, {way}": run for way, run in world.programs(plan).items()},
            "a loop by hand": lambda name=name: world.by_hand(name),
        }
        yield Case(name, ways, moved)
    yield Case(MOVES_NOTHING, dict(_structure(world)), 0)


def _structure(world: Any) -> Iterator[tuple[str, Ready]]:
    tree = world.tree()
    rename = sg.plan([(world.kernel, world.kernel.replace(":**", "") + "s")], world.params)
    part = [("mu/**", "moments"), ("nu/**", "moments"), ("**", "params")]
    donor = {"mu": tree["mu"]}
    yield "rename every leaf, moments too", lambda: world.edit(rename)
    yield "graft a third of the leaves", lambda: sg.graft(tree, donor, missing="keep-target")
    yield "partition, and merge", lambda: sg.merge(*sg.partition(tree, part).values())


def measure(world: Any, library: str, size: int, rounds: int) -> Iterator[Figure]:
    """Time every way; `size` is the bytes of parameters and moments."""
    copy, extra = clock(world, world.copy, rounds)
    yield Figure(library, "copy", "device to device, the limit", copy * 1e3, 1.0, extra)
    for case in cases(world, size):
        for way, run in case.ways.items():
            seconds, extra = clock(world, run, rounds)
            of_copy = (case.moved / seconds) / (size / copy) if case.moved else None
            yield Figure(library, case.name, way, seconds * 1e3, of_copy, extra)


def clock(world: Any, way: Any, rounds: int) -> tuple[float, float | None]:
    """Return the median seconds of a way, and the most memory it took beyond what was in use.

    A way that uses up its arguments is a pair: what runs, and what makes them, untimed.
    """
    run, prepare = way if isinstance(way, tuple) else (lambda _: way(), lambda: None)
    times, extra = [], None
    for n in range(rounds + 1):
        arguments = prepare()
        world.wait(arguments)
        world.reset_peak()
        before = world.peak()
        start = time.perf_counter()
        out = run(arguments)
        world.wait(out)
        seconds = time.perf_counter() - start
        after = world.peak()
        if n:  # the first round warms up
            times.append(seconds)
        if before is not None and after is not None:
            extra = max(extra or 0.0, (after - before) / 1e9)
        del arguments, out
        gc.collect()
    return statistics.median(times), extra


def dimensions(gb: float) -> tuple[int, int]:
    """Return layers and width of float32 blocks of 11 squares, three times over, of about that size."""
    width = 2048 if gb >= 2 else 512 if gb >= 0.1 else 64
    return max(2, round(gb * 1e9 / (3 * 4 * 11 * width**2))), width


def has_accelerator(library: str) -> bool:
    """Whether the library sees an accelerator that it can use."""
    if library == "torch":
        import torch

        return torch.cuda.is_available()
    import jax

    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--libraries", default="torch,jax")
    parser.add_argument("--gb", type=float, default=0.25, help="parameters and moments together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    about = machine("torch", "jax", "optax")
    print_machine(about)
    if options.device == "cpu":
        print("on the CPU: these figures say nothing about an accelerator")
    layers, width = dimensions(options.gb)
    size = layers * 11 * width**2 * 4 * 3
    figures: list[Figure] = []
    for library in options.libraries.split(","):
        if options.device == "cuda" and not has_accelerator(library):
            print(f"\n{library} sees no accelerator: nothing was measured")
            continue
        world = import_module(f"_device_{library}").World(options.device, layers, width)
        print(
            f"\n{library} on {world.device}: {layers} blocks, {size / 1e9:.2f} GB of parameters and moments"
        )
        case = None
        for figure in measure(world, library, size, options.rounds):
            if figure.case != case:
                case = figure.case
                print(f" {case}")
            print(figure)
            sys.stdout.flush()
            figures.append(figure)
        del world
    if options.json:
        rows = [asdict(one) for one in figures]
        Path(options.json).write_text(
            json.dumps({"machine": about, "bytes": size, "figures": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
