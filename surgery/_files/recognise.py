"""Which format a file is in: asked of its content when reading, of its name when writing.

Formats other than the core's own come through the entry-point group `surgery.formats`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from surgery._errors import FileError
from surgery._files.format import Format
from surgery._files.safetensors import FORMAT

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HEAD = 4096


def formats() -> Iterator[Format]:
    """All formats, the core's own first; installed ones are looked for, and imported, when their turn comes."""
    yield FORMAT
    for name in _entries():
        yield _load(name)


@cache
def _load(name: str) -> Format:
    found: Format = _entries()[name].load()
    return found


@cache
def _entries() -> dict[str, EntryPoint]:
    """The formats of other packages, by name. To look for them takes as long as to list a file."""
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group="surgery.formats")}
    return {name: found[name] for name in sorted(found) if name != FORMAT.name}


def format_of(file: FilePath) -> Format:
    """Return the format of a file, by its content.

    Raises:
        FileError: it cannot be opened, or no format recognises it.
    """
    try:
        if file.is_dir():
            head = b""
        else:
            with file.open("rb") as stream:
                head = stream.read(HEAD)
    except OSError as error:
        raise FileError(f"'{file}' cannot be read: {error.strerror}", verb="load") from None
    for one in formats():
        if one.recognises(file, head):
            return one
    known = ", ".join([FORMAT.name, *_entries()])
    raise FileError(f"'{file}' is in no format that is known here", verb="load", hint=f"known: {known}")


def format_for(file: FilePath) -> Format:
    """Return the format that a file name asks for.

    Raises:
        FileError: no format writes such names.
    """
    for one in formats():
        if file.name.endswith(one.suffixes):
            return one
    known = ", ".join(suffix for one in formats() for suffix in one.suffixes)
    raise FileError(
        f"the name '{file.name}' asks for no known format", verb="save", hint=f"known endings: {known}"
    )
