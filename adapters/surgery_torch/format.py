"""PyTorch's own files: `.pt`, `.pth`, `.bin`, sharded `.bin`, and legacy pickles.

Read with `weights_only`, and by memory map where the file allows it; what would
run code is refused, and named. This module imports torch only when it reads or
writes.
"""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from surgery.extend import (
    BOX,
    FileError,
    FileTree,
    Format,
    Key,
    Problem,
    Tree,
    attributes_of,
    find_backend,
    is_known,
    kind_of,
    raise_problems,
)

INDEX = ".bin.index.json"
# What pickles refer to and is neither code nor a class of one's own; modules of torch are code.
_PLAIN = ("torch.", "collections.OrderedDict", "collections.Counter", "__builtin__.set", "builtins.set")
_MODULE = "torch.nn.modules."
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # how a pickle spells the magic number of torch < 1.6


class TorchFile(Format):
    """Files that `torch.save` wrote."""

    name = "torch"
    suffixes = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")
    install = "pip install 'model-surgery[torch]'"

    def recognises(self, file: FilePath, head: bytes, /) -> bool:
        if file.name.endswith(INDEX) or _LEGACY_MAGIC in head[:32] or _is_distributed(file):
            return True
        if not head.startswith(b"PK\x03\x04"):
            return False
        names = _names_in(file)
        if names is None:  # damaged: how it begins, or its name, can still tell what it was
            return b"/data.pkl" in head or file.name.endswith(self.suffixes)
        return any(name.endswith("/data.pkl") for name in names)

    def load(self, file: FilePath, /) -> Tree:
        if file.name.endswith(INDEX):
            return _load_sharded(file)
        if _is_distributed(file):
            raise FileError(
                f"'{file}' is a distributed checkpoint, which is not read yet",
                verb="load",
                hint=f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {file} model.pt",
            )
        tree = _read(file)
        known = type(tree) in (dict, OrderedDict)
        return FileTree.of(tree, file=str(file), format=self.name) if known else tree

    def save(self, tree: Tree, file: FilePath, /, *, metadata: Mapping[str, str]) -> None:
        """Write with torch.save. All tensors are in memory at once (torch knows no other way)."""
        import torch

        problems: list[Problem] = []
        plain = _plain(tree, (), problems, {})
        raise_problems("save", problems)
        torch.save(plain, file)


def _is_distributed(file: FilePath) -> bool:
    return (file / ".metadata").is_file()


def _data_classes() -> list[Any]:
    """Return what training loops save beside tensors and is nothing but data: numpy's values, and options."""
    import argparse
    import codecs

    import numpy as np
    from numpy._core import multiarray

    made = [(getattr(multiarray, name), name) for name in ("scalar", "_reconstruct")]
    named = [
        (one, f"numpy.{core}.multiarray.{name}")
        for one, name in made
        for core in ("core", "_core")  # before and since numpy 2
    ]
    kinds = [type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"]
    return [*named, *kinds, np.dtype, np.ndarray, (codecs.encode, "_codecs.encode"), argparse.Namespace]


def _names_in(file: FilePath) -> list[str] | None:
    """Return the names in a zip archive, or None if its directory cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return None


def _read(file: FilePath) -> Tree:
    import torch

    names = _names_in(file)
    zipped = names is not None
    if any(name.endswith("/constants.pkl") for name in names or ()):
        raise FileError(
            f"'{file}' is TorchScript: a program, not a tree of tensors",
            verb="load",
            hint="torch.jit.load(file).state_dict(), saved with torch.save, can be read",
        )
    try:
        with torch.serialization.safe_globals(_data_classes()):
            if file.suffix == ".safetensors":  # torch would go by the name (2.14)
                with file.open("rb") as stream:
                    return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the unpickler raises whatever the pickle provokes
        unsafe = _unsafe_globals(file, zipped, str(error))
        if unsafe:
            raise FileError(
                f"'{file}' would run code of {', '.join(unsafe)} when it is read",
                verb="load",
                hint="save only tensors, numbers and text: torch.save(model.state_dict(), file)",
            ) from None
        raise FileError(f"'{file}' is damaged: {str(error).splitlines()[0]}", verb="load") from None


def _unsafe_globals(file: FilePath, zipped: bool, message: str) -> list[str]:
    """Name what the pickle refers to beyond tensors and plain data. Nothing of it is imported."""
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    if zipped:
        try:
            with safe_globals(_data_classes()):
                return sorted(get_unsafe_globals_in_checkpoint(str(file)))
        except Exception:
            pass
    said = set(re.findall(r"(?:GLOBAL|class) ([\w.]+\.[\w.]+)", message))
    found: set[str] = set()
    try:
        with file.open("rb") as stream:
            for _ in range(4):  # a legacy file is a row of pickles: magic, protocol, system, the object
                for op, argument, _position in pickletools.genops(stream):
                    if op.name == "GLOBAL" and isinstance(argument, str):
                        found.add(argument.replace(" ", "."))
    except (ValueError, OSError):
        pass
    data = {
        one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__name__}" for one in _data_classes()
    }
    return sorted(said | {name for name in found - data if _MODULE in name or not name.startswith(_PLAIN)})


def _load_sharded(index: FilePath) -> FileTree:
    """Return the tree that an index of `.bin` shards describes; both must agree."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"'{index}' is no index of shards ({error})", verb="load") from None
    shards: dict[str, Mapping[str, Any]] = {}
    problems: list[Problem] = []
    for file in dict.fromkeys(file for _, file in pairs):
        if FilePath(file).name != file or file in ("", ".", ".."):
            raise FileError(f"'{index}' names a file outside its folder: '{file}'", verb="load")
        if not (index.parent / file).is_file():
            raise FileError(
                f"the shard '{file}' is missing", verb="load", hint=f"'{index}' lists it: copy it again"
            )
        shards[file] = _read(index.parent / file)
        for name in shards[file]:
            if weight_map.get(name) != file:
                text = "a shard holds a tensor that the index does not send there"
                problems.append(Problem(text, str(name), found=file, error=FileError))
    for name, file in pairs:
        if name not in shards[file]:
            problems.append(
                Problem("the index names a tensor that its shard lacks", name, found=file, error=FileError)
            )
    raise_problems("load", problems, of=f"{len(pairs)} names in '{index}'")
    tree = {name: shards[file][name] for name, file in pairs}
    return FileTree.of(tree, file=str(index), format="torch")


def _plain(node: Tree, path: tuple[Key, ...], problems: list[Problem], seen: dict[Any, Any]) -> Tree:
    """Return the tree in containers that a weights_only reader takes, with torch tensors for leaves."""
    kind = kind_of(node)
    if kind is None:
        return _plain_leaf(node, path, problems, seen)
    if node is None:
        return None
    aux, children = kind.open(node)
    if kind.family == "box":
        return _plain(children[BOX], path, problems, seen)
    inside = {key: _plain(child, (*path, key), problems, seen) for key, child in children.items()}
    if isinstance(node, OrderedDict):
        out: OrderedDict[Any, Any] = OrderedDict(inside)
        vars(out).update(attributes_of(kind, aux))
        return out
    if type(node) in (list, tuple):
        return kind.close(aux, inside)
    if kind.family == "mapping":
        return inside
    text = f"a {kind.name} cannot be read back without running its code"
    hint = "save its parts: its params, or sg.slots of its optimizer state"
    problems.append(Problem(text, "/".join(map(str, path)), hint=hint, error=FileError))
    return inside


def _plain_leaf(leaf: Any, path: tuple[Key, ...], problems: list[Problem], seen: dict[Any, Any]) -> Any:
    from surgery_torch._arrays import TORCH

    if type(leaf) in (bool, int, float, complex, str, bytes):  # numpy's float64 is a float to Python
        return leaf
    backend = find_backend(leaf)
    text = "/".join(map(str, path))
    if backend is None or not backend.holds_data(leaf):
        found = f"a {type(leaf).__name__}"
        problems.append(Problem("the file cannot hold this leaf", text, found=found, error=FileError))
        return None
    if backend is TORCH:
        return TORCH.settled(leaf)
    if not is_known(backend.spec(leaf).dtype):
        found = str(backend.spec(leaf))
        hint = "save a PRNG key as jax.random.key_data(key)" if found[:4] == "key<" else "cast or drop it"
        problems.append(Problem("the file cannot hold this dtype", text, None, found, hint, FileError))
        return None
    name = backend.identity(leaf)
    if name is None or name not in seen:
        tensor = TORCH.from_numpy(backend.to_numpy(leaf))
        seen[name if name is not None else id(leaf)] = tensor
        return tensor
    return seen[name]


FORMAT = TorchFile()
