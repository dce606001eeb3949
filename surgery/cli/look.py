"""Commands that look: ls, show, diff."""

from __future__ import annotations

import json
from typing import Any

import click

from surgery.cli._common import as_json, emit


@click.command()
@click.argument("file")
@click.option("--depth", type=click.IntRange(min=1), help="Sum up below this many keys.")
@as_json
def ls(file: str, depth: int | None, json_: bool) -> None:
    """List the tensors in FILE, reading only its header.

    FILE may be a folder of weights, and name a subtree: run.pt:model.

    \b
    Examples:
      surgery ls model.safetensors
      surgery ls bert-base/ --depth 2
      surgery ls run.pt:optimizer --json
    """
    import surgery as sg

    emit(sg.summarize(sg.load(file), depth=depth), json_)


@click.command()
@click.argument("file")
@as_json
def show(file: str, json_: bool) -> None:
    """Show what FILE is: its format, metadata and config, and what it holds in all.

    \b
    Examples:
      surgery show model.safetensors
      surgery show bert-base/ --json
    """
    import surgery as sg

    tree = sg.load(file)
    report = sg.summarize(tree, depth=1)
    about: dict[str, Any] = {
        "file": getattr(tree, "file", file),
        "format": getattr(tree, "format", "") or None,
        "metadata": dict(getattr(tree, "metadata", {})),
        "config": getattr(tree, "config", None),
    }
    if json_:
        click.echo(json.dumps({**about, "summary": json.loads(report.to_json())}))
        return
    click.echo(f"{about['file']}: {about['format'] or 'unknown format'}")
    for name in ("metadata", "config"):
        if about[name]:
            click.echo(f"{name}:")
            for key, value in about[name].items():
                click.echo(f"  {key}: {value}")
    click.echo(str(report))


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--exact", is_flag=True, help="Compare the numbers too, bit for bit.")
@as_json
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, exact: bool, json_: bool) -> int:
    """Say what differs between two files: names, shapes, dtypes, and with --exact the numbers.

    Exit code 1 if anything differs. What containers hold the tensors does not matter.

    \b
    Examples:
      surgery diff old.safetensors new.safetensors
      surgery diff bert-base/ back/ --exact
      surgery diff run.pt:model model.safetensors --exact --json
    """
    import surgery as sg

    found = sg.diff(sg.load(a), sg.load(b), values=exact)
    report = found.with_status("removed", "added", "shape", "dtype", "value")
    emit(report, json_)
    return 1 if report else 0


COMMANDS = (ls, show, diff)
