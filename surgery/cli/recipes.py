"""Commands about recipes: ls, show, cp."""

from __future__ import annotations

import json
from pathlib import Path

import click

from surgery.cli._common import as_json


@click.group()
def recipe() -> None:
    """List, show and copy the recipes that come with the package.

    \b
    Examples:
      surgery recipe ls
      surgery recipe cp hf/bert mine.toml
      surgery convert model/ out.msgpack --recipe mine.toml
    """


@recipe.command("ls")
@as_json
def ls(json_: bool) -> None:
    """List the recipes."""
    import surgery as sg

    found = [
        {"name": one.name, "title": one.title, "from": one.source, "to": one.target} for one in sg.recipes()
    ]
    if json_:
        click.echo(json.dumps(found))
        return
    for one in found:
        click.echo(f"{one['name']}  {one['title']}")


@recipe.command("show")
@click.argument("name")
@as_json
def show(name: str, json_: bool) -> None:
    """Print the recipe NAME."""
    import surgery as sg

    found = sg.recipe(name)
    fields = {
        "name": found.name,
        "title": found.title,
        "from": found.source,
        "to": found.target,
        "text": found.text,
    }
    click.echo(json.dumps(fields) if json_ else found.text, nl=json_)


@recipe.command("cp")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE.")
@as_json
def cp(name: str, file: Path, force: bool, json_: bool) -> None:
    """Copy the recipe NAME to FILE, to be changed there."""
    import surgery as sg
    from surgery.extend import replacing

    text = sg.recipe(name).text
    with replacing(file, overwrite=force) as place:
        place.write_text(text, "utf-8")
    if json_:
        click.echo(json.dumps({"name": name, "file": str(file)}))
