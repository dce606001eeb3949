"""File formats: what one must be able to do, and how a file finds its own.

A file is recognised by its content. Formats come through the entry-point group
`surgery.formats`, ours and anybody else's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from surgery._errors import FileError
from surgery._types import Tree

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class FileTree(dict[Any, Any]):
    """The tree in a file: a dict that also knows where it came from.

    That of a file with an OrderedDict at its root, such as a torch state_dict, is an
    OrderedDict too, with what that one hides.

    Attributes:
        file: the file or folder.
        format: the name of its format.
        metadata: what the file says beside its tensors, text to text.
        config: the model's `config.json`, if one lies beside the weights.
    """

    __surgery_kind__ = "dict"  # compared with other trees, it is one
    __surgery_beside__ = ("file", "format", "metadata", "config")

    file: str = ""
    format: str = ""
    metadata: Mapping[str, str] = {}
    config: Mapping[str, Any] | None = None

    @staticmethod
    def of(tree: Mapping[Any, Any], like: object = None, **about: Any) -> FileTree:
        """Return a mapping as a file tree that comes from where `like` does, or as is given."""
        out = OrderedFileTree(tree) if isinstance(tree, OrderedDict) else FileTree(tree)
        known = getattr(like, "__dict__", {})
        vars(out).update(getattr(tree, "__dict__", {}))
        vars(out).update((name, known[name]) for name in FileTree.__surgery_beside__ if name in known)
        vars(out).update(about)
        return out


class OrderedFileTree(FileTree, OrderedDict[Any, Any]):
    __surgery_kind__ = "OrderedDict"


class Format:
    """One file format. Subclass it and name the instance in an entry point.

    Attributes:
        name: such as `"safetensors"`.
        suffixes: the file names under which it is written.
        install: the command that installs what reading or writing needs.
    """

    name: str = ""
    suffixes: tuple[str, ...] = ()
    install: str = ""

    def recognises(self, file: FilePath, head: bytes, /) -> bool:
        """Whether this is a file of this format, from its first bytes (empty for a folder)."""
        return False

    def load(self, file: FilePath, /) -> Tree:
        """Return the tree in a file, reading no more than its headers.

        Raises:
            FileError: the file is damaged, or unsafe to read.
        """
        raise NotImplementedError

    def save(self, tree: Tree, file: FilePath, /, *, metadata: Mapping[str, str]) -> None:
        """Write a tree to a new file, one leaf in memory at a time.

        Raises:
            FileError: the format cannot hold this tree.
        """
        raise NotImplementedError


HEAD = 4096


OWN = "safetensors"


def formats() -> Iterator[Format]:
    """All formats, the core's own first; installed ones are looked for, and imported, when their turn comes."""
    yield format_named(OWN)
    for name in _entries():
        yield format_named(name)


@cache
def format_named(name: str) -> Format:
    """Return the format of that name."""
    if name == OWN:
        from surgery._files.safetensors import FORMAT

        return FORMAT
    found: Format = _entries()[name].load()
    return found


@cache
def _entries() -> dict[str, EntryPoint]:
    """The formats of other packages, by name. To look for them takes as long as to list a file."""
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group="surgery.formats")}
    return {name: found[name] for name in sorted(found) if name != OWN}


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
    known = ", ".join([OWN, *_entries()])
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
