"""Fair ratios: who runs beside whom, for how long, and what counts.

All contenders take turns within a round; a ratio is taken within a round; the
median of the rounds is the figure. So a machine that is slow for a while is slow
for everybody.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIN_SECONDS = 0.02  # a contender that is faster than this runs several times in a round

Contender = Callable[[], Any]


@dataclass
class Figure:
    """One comparison: how many times faster than a peer ours is, and what was promised.

    Attributes:
        case: what was done.
        size: on what.
        peer: beside whom.
        ratio: the peer's time over ours, the median of the rounds.
        low, high: the quartiles of the same.
        ours_ms, peer_ms: medians, to give an idea; only the ratio is a claim.
        goal: the least ratio that was promised here, or None.
    """

    case: str
    size: str
    peer: str
    ratio: float
    low: float
    high: float
    ours_ms: float
    peer_ms: float
    goal: float | None = None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "met" if self.ratio >= self.goal else "NOT MET"


@dataclass
class Case:
    """What is done, by us and by our peers.

    Attributes:
        name: what is done.
        size: on what.
        ours: our way.
        peers: the same result by other means, by name.
        goals: the least ratio promised, by peer.
        before: run before each measurement of ours, outside the clock.
    """

    name: str
    size: str
    ours: Contender
    peers: Mapping[str, Contender]
    goals: Mapping[str, float] = field(default_factory=dict)
    before: Contender | None = None


def compare(case: Case, rounds: int) -> list[Figure]:
    """Return a figure per peer."""
    contenders: dict[str, Contender] = {"": case.ours, **case.peers}
    repeats = {name: 1 for name in contenders}
    if case.before is None:
        repeats = {name: _repeats(run) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for n in range(rounds):
        for name in order[n % len(order) :] + order[: n % len(order)]:  # nobody is always first
            if name == "" and case.before is not None:
                case.before()
            times[name].append(clock(contenders[name], repeats[name]))
    return [_figure(case, peer, times[""], times[peer]) for peer in case.peers]


def _repeats(run: Contender) -> int:
    run()  # imports, caches: everybody has run once before anybody is measured
    return max(1, round(MIN_SECONDS / clock(run, 1)))


def clock(run: Contender, repeats: int) -> float:
    """Return the seconds of one run, with the collector as users have it, and nothing of others to collect."""
    gc.collect()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _figure(case: Case, peer: str, ours: list[float], theirs: list[float]) -> Figure:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Figure(
        case=case.name,
        size=case.size,
        peer=peer,
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        ours_ms=statistics.median(ours) * 1e3,
        peer_ms=statistics.median(theirs) * 1e3,
        goal=case.goals.get(peer),
    )


def machine(*packages: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(n, 1) for n in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("model-surgery", *packages)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def print_machine(about: Mapping[str, Any]) -> None:
    """Print what the figures were measured on."""
    versions = ", ".join(f"{name} {number or 'absent'}" for name, number in about["versions"].items())
    print(
        f"{about['cores']} cores, {about['system']}, load {about['load']}, python {about['python']}\n{versions}"
    )


def print_figures(figures: Iterable[Figure]) -> None:
    """Print a table; `x faster` above 1 is in our favour."""
    case = None
    for one in figures:
        if (one.case, one.size) != case:
            case = (one.case, one.size)
            print(f"\n{one.case}, {one.size}: {one.ours_ms:.3g} ms")
        goal = f"goal {one.goal:g}x: {one.verdict}" if one.goal is not None else ""
        spread = f"({one.low:.2f}-{one.high:.2f})"
        print(f"  {one.ratio:8.2f}x faster than {one.peer:<44} {spread:<16} {goal}".rstrip())


def write_json(file: str | None, about: Mapping[str, Any], figures: Iterable[Figure]) -> None:
    """Write everything to a file, if one is named."""
    if file:
        rows = [{**asdict(one), "verdict": one.verdict} for one in figures]
        Path(file).write_text(json.dumps({"machine": about, "figures": rows}, indent=1), "utf-8")


def count_of(text: str) -> int:
    """Read `10k` as 10000."""
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def finish(figures: Iterable[Figure]) -> None:
    """Say which goals were missed; benchmarks report, they do not fail."""
    missed = [one for one in figures if one.verdict == "NOT MET"]
    print(f"\n{len(missed)} goals not met" if missed else "\nall goals met", file=sys.stdout)
