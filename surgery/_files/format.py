"""File formats: what one must be able to do, and the tree that a file holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from surgery._types import Tree


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
