"""Loading, making real, and saving trees, whatever the format."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from surgery._arrays.backend import Backend, must_be_readable
from surgery._errors import FileError, PathError, Problem, SpecError, SurgeryError, problem_at, raise_problems
from surgery._files.atomic import replacing
from surgery._files.format import FileTree
from surgery._files.leaves import leaves_for_file
from surgery._files.recognise import format_for, format_of
from surgery._files.safetensors import write_sharded
from surgery._ops.base import Box
from surgery._ops.lazy import Lazy
from surgery._paths.path import text_of
from surgery._trees.modules import as_tree
from surgery._trees.registry import adapter, find_backend, is_array
from surgery._trees.structure import build
from surgery._types import Leaf, Path, Tree
from surgery._verbs.select import extract
from surgery._verbs.tree import walk

if TYPE_CHECKING:
    import numpy as np

SHARD_LIMIT = 5_000_000_000  # bytes, the habit of the hubs

# What a folder of weights may hold, the first found is taken.
WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "flax_model.msgpack",
)


def load(
    file: str | FilePath, *, at: str | Path | None = None, to: str | None = None, device: Any = None
) -> Tree:
    """Return the tree in a file. Only headers are read; a leaf is read when it is used.

    Args:
        file: a file, or a folder of weights with a `config.json` beside them. Its format
            is recognised by content. `PATH:subtree` means the same as `at`.
        at: the subtree to return.
        to: make the leaves real in a framework; see `realize`.
        device: where to put them then.

    Returns:
        A tree of lazy leaves. A mapping also knows `.file`, `.format`, `.metadata`, and
        `.config`, the model's config. With `to` it is a plain dict.

    Raises:
        FileError: unreadable, damaged, unsafe, or in no known format.

    >>> import tempfile, os, numpy as np
    >>> file = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save({"enc": {"w": np.ones((2, 3), np.float32)}}, file)
    >>> load(file)
    {'enc/w': <f32[2,3] in model.safetensors[104:128]>}
    """
    path, inside = _split(str(file))
    if not path.exists():
        raise FileError(f"'{path}' does not exist", verb="load")
    config = None
    if path.is_dir():
        config = _read_config(path)
        path = _weights_in(path) or path
    tree = format_of(path).load(path)
    if config is not None and isinstance(tree, Mapping):
        tree = FileTree.of(tree, file=str(path), config=config)
    for place in (inside, at):
        if place:
            tree = _extract(tree, place)
    return tree if to is None else realize(tree, to, device=device)


def _split(file: str) -> tuple[FilePath, str | None]:
    """Split `PATH:subtree`; a colon that belongs to an existing path stays in it."""
    path = FilePath(file)
    if not path.exists() and ":" in file:
        head, _, tail = file.rpartition(":")
        if head and FilePath(head).exists():
            return FilePath(head), tail
    return path, None


def _extract(tree: Tree, place: str | Path) -> Tree:
    try:
        inside = extract(tree, place)
    except PathError as error:
        first = error.problems[0]
        raise PathError(first.message, verb="load", path=first.path, hint=first.hint) from None
    if isinstance(tree, FileTree) and type(inside) in (dict, OrderedDict):
        return FileTree.of(inside, like=tree)
    return inside


def _weights_in(folder: FilePath) -> FilePath | None:
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def _read_config(folder: FilePath) -> dict[str, Any] | None:
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"'{file}' is no JSON ({error})", verb="load") from None
    if not isinstance(config, dict):
        raise FileError(f"'{file}' is no JSON object", verb="load")
    return config


def target_backend(to: str) -> Backend:
    """Return the backend that makes leaves for a target name.

    Raises:
        AdapterError: nobody answers to that name.
    """
    if to == "numpy":
        from surgery._arrays.numpy import NUMPY

        return NUMPY
    return adapter(to).target(to)


def realize(tree: Tree, to: str = "numpy", *, device: Any = None) -> Tree:
    """Return the tree with every leaf in memory, as an array of one library.

    Args:
        tree: any tree; leaves that are no arrays stay as they are.
        to: `"numpy"`, `"torch"`, `"jax"`, or any name that an adapter answers to.
        device: where to put them, in that library's words.

    Returns:
        A tree in the same containers; that of a file becomes a plain dict. Leaves of that
        library stay the same objects, unless a device is asked for; the names of one tied
        tensor get one array.

    Raises:
        AdapterError: the library is not installed, or nobody answers to its name.
        SpecError: the library would narrow a dtype.
    """
    backend = target_backend(to)
    flat = walk(as_tree(tree))
    done: dict[Hashable, Leaf] = {}
    leaves: dict[Path, Leaf] = {}
    problems: list[Problem] = []
    for path, leaf in flat.items():
        try:
            leaves[path] = _real(leaf, backend, device, done)
        except SurgeryError as error:
            problems.append(problem_at(text_of(path, flat.structure.sep), error))
    raise_problems("realize", problems, of=f"{len(flat)} leaves")
    out = build(leaves, flat.structure, verb="realize")
    # jax would take a dict of a class that it does not know for one leaf
    return dict(out) if type(out) is FileTree else out


def _real(leaf: Leaf, backend: Backend, device: Any, done: dict[Hashable, Leaf]) -> Leaf:
    ours = find_backend(leaf)
    if ours is None or not is_array(leaf) or (ours is backend and device is None):
        return leaf
    must_be_readable(ours, leaf)
    if not ours.holds_data(leaf):
        return leaf
    name = ours.identity(leaf)
    if name is not None and name in done:
        return done[name]
    real = _moved(leaf, ours, backend, device)
    if name is not None:
        done[name] = real
    return real


def _moved(leaf: Leaf, ours: Backend, backend: Backend, device: Any) -> Leaf:
    move = getattr(ours, "move", None)
    if ours is backend and move is not None:
        return move(leaf, device=device)
    spec = ours.spec(leaf)
    if spec.dtype.startswith("key<"):  # jax has the numbers in it, but no other library the type
        hint = "take jax.random.key_data(key)"
        raise SpecError(f"{backend.name} has no {spec.dtype}", found=str(spec), hint=hint)
    real = backend.from_numpy(ours.to_numpy(leaf), device=device)
    if backend.name == "numpy" and not real.flags.writeable:
        return real.copy()  # a view of what jax holds; the caller's own arrays can be written to
    return real


def save(
    tree: Tree,
    file: str | FilePath,
    *,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    shard_limit: int = SHARD_LIMIT,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a tree to a file, one leaf in memory at a time; complete, or not at all.

    Args:
        tree: any tree whose leaves the format can hold, lazy ones too.
        file: its ending names the format: `.safetensors`, `.pt`/`.pth`/`.bin`, `.msgpack`.
            A name that ends in `/` means a folder: `model.safetensors` in it, in shards
            with an index where it is larger than `shard_limit`, and `config.json` where
            the tree knows its config.
        overwrite: replace what is there.
        metadata: text beside the tensors, where the format has a place for it.
        shard_limit: bytes of tensors per shard.
        progress: called with the bytes of each leaf when it is written.

    Raises:
        FileError: it exists, the format cannot hold the tree, or writing failed.
    """
    target = FilePath(file)
    about = {**getattr(tree, "metadata", {}), **(metadata or {})}
    about.pop("surgery.ties", None)  # written afresh from what is tied now
    config = getattr(tree, "config", None)
    if progress is not None:
        tree = _watched(tree, progress)
    if str(file).endswith(("/", "\\")) or (target.is_dir() and not target.suffix):
        _save_folder(tree, target, overwrite, about, shard_limit, config)
        return
    one = format_for(target)
    with replacing(target, overwrite=overwrite) as place:
        one.save(tree, place, metadata=about)


def _watched(tree: Tree, progress: Callable[[int], None]) -> Tree:
    """Return the tree with leaves that tell when they are read, whatever the format."""

    def watched(leaf: Leaf) -> Leaf:
        backend = find_backend(leaf)
        if backend is None or not is_array(leaf) or not backend.holds_data(leaf):
            return leaf
        spec, name = backend.spec(leaf), backend.identity(leaf)

        def read(box: Box) -> np.ndarray[Any, Any]:
            array = backend.to_numpy(leaf)[tuple(slice(*span) for span in box)]
            progress(spec.nbytes)
            return array

        return Lazy(spec, read, origin="memory", tie=name)

    flat = walk(as_tree(tree))
    return build({path: watched(leaf) for path, leaf in flat.items()}, flat.structure, verb="save")


def _save_folder(
    tree: Tree,
    folder: FilePath,
    overwrite: bool,
    metadata: Mapping[str, str],
    limit: int,
    config: Mapping[str, Any] | None,
) -> None:
    leaves, ties, sep = leaves_for_file(tree, "safetensors")
    about = {"format": "pt" if sep == "." else "flax", **metadata}
    with replacing(folder, overwrite=overwrite, folder=True) as place:
        write_sharded(leaves, place, stem="model", limit=limit, metadata=about, ties=ties)
        if config is not None:
            (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
