"""Commands that edit: plan, explain, convert."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from surgery.cli._common import as_json, emit, progress

if TYPE_CHECKING:
    from surgery import Plan
    from surgery.extend import Row

Command = TypeVar("Command", bound=Callable[..., Any])


def edits(command: Command) -> Command:
    """Add the options that say what is to be done."""
    options = (
        click.option("--recipe", metavar="RECIPE", help="A recipe's name (surgery recipe ls), or its file."),
        click.option(
            "--like", metavar="FILE", help="The result must have the names, shapes and dtypes of FILE."
        ),
        click.option("--reverse", is_flag=True, help="Read the recipe backwards."),
        click.option(
            "--to", metavar="TARGET", help="linen, nnx, torch or numpy: checked against the recipe."
        ),
        click.option(
            "--at", metavar="PATH", help="The subtree to take; 'auto' finds the model in a checkpoint."
        ),
        click.option("--unwrap", is_flag=True, help="Take wrapper keys away: module., _orig_mod., ..."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("src")
@edits
@as_json
def plan(src: str, json_: bool, **options: Any) -> None:
    """Say what a conversion of SRC would do. Only headers are read, nothing is written.

    \b
    Examples:
      surgery plan bert-base/ --recipe hf/bert
      surgery plan run.pt --at auto --unwrap --like model.safetensors --json
    """
    _, made, notes = _planned(src, **options)
    _note(notes)
    emit(made.report, json_)


@click.command()
@click.argument("src")
@click.argument("path")
@edits
@as_json
def explain(src: str, path: str, json_: bool, **options: Any) -> None:
    """Say what happens to the leaf PATH of SRC, or where the leaf PATH of the result comes from.

    \b
    Examples:
      surgery explain bert-base/ embeddings.position_ids --recipe hf/bert
      surgery explain bert-base/ params/pooler/dense/kernel --recipe hf/bert
    """
    _, made, notes = _planned(src, **options)
    _note(notes)
    emit(made.explain(path), json_)


@click.command()
@click.argument("src")
@click.argument("dst")
@edits
@click.option(
    "--remainder", metavar="FILE", help="What was lost on the way here; found beside SRC by itself."
)
@click.option("--no-remainder", is_flag=True, help="Go on without what was lost on the way here.")
@click.option("--dry-run", is_flag=True, help="Plan and report, write nothing.")
@click.option("--force", is_flag=True, help="Replace DST.")
@as_json
def convert(
    src: str,
    dst: str,
    remainder: str | None,
    no_remainder: bool,
    dry_run: bool,
    force: bool,
    json_: bool,
    **options: Any,
) -> None:
    """Convert SRC to DST: another format, other names, another framework.

    The ending of DST names its format: .safetensors, .pt, .msgpack; a name that ends
    in / means a folder. Without a recipe or --like, names stay as they are. What the
    result cannot hold is written beside it, to DST.remainder.safetensors.

    \b
    Examples:
      surgery convert run.pt model.safetensors --at auto --unwrap
      surgery convert bert-base/ bert.msgpack --recipe hf/bert
      surgery convert bert.msgpack back/ --recipe hf/bert --reverse
    """
    import surgery as sg

    if no_remainder and remainder:
        raise click.UsageError("--remainder and --no-remainder exclude each other")
    tree, made, notes = _planned(src, **options)
    _note(notes)
    kept: Any = False if no_remainder else _remainder(src, remainder)
    result = made.apply(tree, remainder=kept)
    lost = made.remainder(tree) if made.lost else None
    beside = _beside(dst)
    report = made.report if dry_run else made.report.with_rows(_restored(result, made), verb="convert")
    if not dry_run:
        total = sum(spec.nbytes for stage in made.stages for spec in stage.result.values())
        with _remainder_beside(lost, beside, force), progress(total) as advance:
            sg.save(
                sg.FileTree.of(result, like=tree) if isinstance(result, dict) else result,
                dst,
                overwrite=force,
                progress=advance,
            )
    emit(report, json_)
    if lost is not None and not json_:
        click.echo(f"  {'would be' if dry_run else 'is'} kept in {beside}: what the result cannot hold")


@contextmanager
def _remainder_beside(lost: Any, beside: str, force: bool) -> Iterator[None]:
    """Put a remainder in its place when the result is in its own, so that the two always belong together."""
    import surgery as sg
    from surgery.extend import replacing

    if lost is not None:
        with replacing(Path(beside), overwrite=force) as place:
            sg.save(lost, place)
            yield
        return
    stale = os.path.lexists(beside)
    if stale and not force:
        raise sg.FileError(
            f"'{beside}' exists already, and nothing is lost this time: it is of another conversion",
            verb="save",
            hint="--force removes it",
        )
    yield
    if stale:
        os.remove(beside)


def _restored(result: Any, made: Plan) -> list[Row]:
    """What came from the remainder: no plan can foresee it."""
    import surgery as sg
    from surgery.extend import Row, spec_of

    planned = made.stages[-1].result
    return [
        Row("restored", path, after=str(spec_of(leaf)), note="from the remainder")
        for path, leaf in sg.flatten(result).items()
        if path not in planned
    ]


def _beside(file: str) -> str:
    return file.rstrip("/\\") + ".remainder.safetensors"


def _remainder(src: str, given: str | None) -> Any:
    import surgery as sg

    if given is not None:
        return sg.load(given)
    beside = _beside(src)
    if os.path.exists(beside):
        click.echo(f"using the remainder {beside}", err=True)
        return sg.load(beside)
    return None


def _note(notes: list[str]) -> None:
    for note in notes:
        click.echo(note, err=True)


def _planned(
    src: str,
    *,
    recipe: str | None,
    like: str | None,
    reverse: bool,
    to: str | None,
    at: str | None,
    unwrap: bool,
) -> tuple[Any, Plan, list[str]]:
    """Load SRC and plan what the options ask for."""
    import surgery as sg

    if reverse and recipe is None:
        raise click.UsageError("--reverse reads a recipe backwards: name one with --recipe")
    tree = sg.load(src, at=None if at == "auto" else at)
    notes = []
    if at == "auto" or unwrap:
        tree, report = sg.unwrap(tree, inside=at == "auto", prefixes=unwrap)
        notes.append(str(report))
    target = sg.load(like) if like is not None else None
    if recipe is None:
        _refuse_target(to, like)
        return tree, sg.plan([("**", "**")], tree, target), notes
    rules = sg.recipe(recipe)
    if reverse:
        rules = rules.reverse()
    wanted: dict[str | None, Literal["linen", "torch"] | None] = {
        "linen": "linen",
        "nnx": "linen",
        "torch": "torch",
    }
    if to is not None and to != "numpy" and wanted.get(to) != rules.target:
        hint = "; --reverse reads it backwards" if wanted.get(to) == rules.source else ""
        raise click.UsageError(f"the recipe {recipe} leads to {rules.target}, not to {to}{hint}")
    return tree, sg.plan(rules, tree, target), notes


def _refuse_target(to: str | None, like: str | None) -> None:
    if to in ("linen", "nnx", "torch") and like is None:
        raise click.UsageError(f"--to {to} needs a recipe: names and layouts cannot be known without one")


COMMANDS = (plan, explain, convert)
