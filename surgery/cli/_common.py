"""What the commands share: their options, printing, progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from surgery import Report

Command = TypeVar("Command", bound=Callable[..., Any])


def as_json(command: Command) -> Command:
    """Add the option `--json`."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON, every row, one schema.")(command)


def emit(report: Report, json_: bool) -> None:
    """Print a report on stdout."""
    click.echo(report.to_json() if json_ else str(report))


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """Give a function to call with bytes done; it draws on stderr if that is a terminal, else it is None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True, no_color="NO_COLOR" in os.environ)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
