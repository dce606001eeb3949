"""How the demo speaks: headings, sentences, commands with what they print, and claims that are checked."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def heading(text: str) -> None:
    """Print the title of a part."""
    print(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    """Print a sentence, or lines of a report, indented."""
    for line in text.splitlines():
        print(f"  {line}".rstrip())


def check(claim: str, holds: bool) -> None:
    """Print a claim that was checked. One that does not hold ends the demo with exit code 1."""
    print(f"  [{'ok' if holds else 'FAILED'}] {claim}", flush=True)
    if not holds:
        raise SystemExit(f"the demo failed: {claim}")


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    rows = list(rows)
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def surgery(*args: str | Path, expect: int = 0) -> str:
    """Run the command `surgery`, print it, and return what it printed.

    A folder keeps the `/` at its end. An exit code other than `expect` ends the demo.
    """
    words = [short(arg) if isinstance(arg, Path) else arg for arg in args]
    print(f"  $ surgery {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "surgery", *words], capture_output=True, text=True)
    if done.returncode != expect:
        say(done.stdout + done.stderr)
        raise SystemExit(f"the demo failed: exit code {done.returncode} where {expect} was expected")
    return (done.stdout or done.stderr).rstrip()


def short(path: Path) -> str:
    """Return a path as one would type it here."""
    near = os.path.relpath(path)
    return near if len(near) < len(str(path)) else str(path)
