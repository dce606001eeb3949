"""safetensors files: one, or sharded with an index. Read by header, written leaf by leaf.

Header and offsets are read and checked here, not by the library: its readers go
through a framework each, which fail on float8 (numpy), narrow 64-bit numbers
(flax, 0.8.0), and write arrays that are not in C order scrambled (numpy, 0.8.0).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from surgery._dtypes import bits_of, itemsize_in_memory
from surgery._errors import FileError, Problem, nearest, raise_problems
from surgery._files.format import FileTree, Format
from surgery._files.leaves import FileLeaf, leaves_for_file
from surgery._ops.base import Box
from surgery._ops.lazy import Lazy, Reader
from surgery._types import TensorSpec, Tree

if TYPE_CHECKING:
    import numpy as np

HEADER_LIMIT = 100_000_000  # bytes, as in the reference implementation
TIES = "surgery.ties"  # metadata key: JSON of dropped name -> name that holds the tensor
INDEX = ".safetensors.index.json"

CODES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
}
_CODE_OF = {name: code for code, name in CODES.items()}
# The reference implementation writes tensors by dtype in this order, then by name (0.8.0).
_ORDER: Sequence[str] = (
    "U64 I64 F64 C64 F32 U32 I32 BF16 F16 U16 I16 F8_E5M2FNUZ F8_E4M3FNUZ F8_E8M0 F8_E4M3 F8_E5M2 I8 U8 BOOL"
).split()


class Safetensors(Format):
    """One `.safetensors` file, or an index with its shards."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def recognises(self, file: FilePath, head: bytes, /) -> bool:
        if file.name.endswith(INDEX):
            return True
        return len(head) > 8 and struct.unpack("<Q", head[:8])[0] <= HEADER_LIMIT and head[8:9] == b"{"

    def load(self, file: FilePath, /) -> Tree:
        if file.name.endswith(INDEX):
            return load_sharded(file)
        entries, metadata = read_header(file)
        tree = {name: entry.lazy(file) for name, entry in entries.items()}
        return FileTree.of(
            _with_ties(tree, metadata, file), file=str(file), format=self.name, metadata=metadata
        )

    def save(self, tree: Tree, file: FilePath, /, *, metadata: Mapping[str, str]) -> None:
        leaves, ties, sep = leaves_for_file(tree, "safetensors")
        write(leaves, file, metadata={"format": "pt" if sep == "." else "flax", **metadata}, ties=ties)


class Entry:
    """One tensor in a file: its spec, and where its bytes are."""

    __slots__ = ("name", "size", "spec", "start")

    def __init__(self, name: str, spec: TensorSpec, start: int, size: int) -> None:
        self.name = name
        self.spec = spec
        self.start = start
        self.size = size

    def lazy(self, file: FilePath) -> Lazy:
        """Return the leaf that reads this tensor when it is used."""
        stamp = _stamp(os.stat(file))
        origin = f"{file.name}[{self.start}:{self.start + self.size}]"
        return Lazy(self.spec, self._reader(file, stamp), origin=origin)

    def _reader(self, file: FilePath, stamp: tuple[int, ...]) -> Reader:
        def read(box: Box) -> np.ndarray[Any, Any]:
            import numpy as np

            from surgery._dtypes import numpy_dtype

            if bits_of(self.spec.dtype) < 8:
                raise FileError(
                    f"'{self.name}' is {self.spec}: packed elements of less than a byte can be listed, not read yet",
                    path=self.name,
                )
            dtype, shape = numpy_dtype(self.spec.dtype), self.spec.shape
            row = prod(shape[1:]) * itemsize_in_memory(self.spec.dtype)
            low, high = box[0] if shape else (0, 1)
            array = np.empty((high - low, *shape[1:]) if shape else (), dtype)
            _read_into(array, file, self.start + low * row, stamp)
            return array[(slice(None), *(slice(*span) for span in box[1:]))] if shape else array

        return read


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _read_into(array: np.ndarray[Any, Any], file: FilePath, start: int, stamp: tuple[int, ...]) -> None:
    """Fill an array with bytes of a file, which must be the file whose header was read."""
    import numpy as np

    try:
        opened = file.open("rb", buffering=0)
    except OSError as error:
        raise FileError(f"'{file}' can no longer be read: {error.strerror}", verb="load") from error
    with opened as stream:
        if _stamp(os.fstat(stream.fileno())) != stamp:
            raise FileError(f"'{file}' changed since its header was read", hint="load it again")
        view = array.reshape(-1).view(np.uint8).data
        stream.seek(start)
        done = 0
        while done < len(view):
            count = stream.readinto(view[done:])
            if not count:
                raise FileError(
                    f"'{file}' ends before the data of a tensor does", hint="it is truncated: copy it again"
                )
            done += count


def read_header(file: FilePath) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the tensors of one file and its metadata, every offset checked.

    Raises:
        FileError: the header is too long, no JSON, has a key twice, an unknown dtype or a
            wrong size; tensors overlap, leave holes, or do not fill the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else HEADER_LIMIT + 1
        if length > min(HEADER_LIMIT, size - 8):
            raise _damaged(
                file, f"its header would be {length} bytes long", "it is truncated, or no safetensors file"
            )
        text = stream.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(file, "its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        hint = "a tensor of that name was written by a careless tool: no reader takes this file"
        raise _damaged(file, "its __metadata__ is not text to text", hint)
    problems: list[Problem] = []
    entries = {}
    for name, info in header.items():
        entry = _entry(name, info, 8 + length, problems)
        if entry is not None:
            entries[name] = entry
    raise_problems("load", problems, of=f"{len(header)} tensors of '{file}'")
    _check_cover(entries.values(), file, 8 + length, size)
    return entries, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' stands twice")
    return out


def _damaged(file: FilePath, what: str, hint: str | None = None) -> FileError:
    return FileError(f"'{file}' is damaged: {what}", verb="load", hint=hint)


def _entry(name: str, info: Any, base: int, problems: list[Problem]) -> Entry | None:
    def bad(what: str, expected: str | None = None, found: str | None = None) -> None:
        problems.append(Problem(what, name, expected, found, error=FileError))

    if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
        bad("the header says nothing of dtype, shape or data_offsets", found=f"{info!r:.60}")
        return None
    shape, offsets, code = info["shape"], info["data_offsets"], info["dtype"]
    numbers = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not numbers or not all(type(n) is int and 0 <= n < 1 << 62 for n in [*shape, *offsets]):
        bad("shape or offsets are no numbers", found=f"{shape!r:.60}, {offsets!r:.60}")
        return None
    if code not in CODES:
        bad(
            "the dtype is unknown",
            found=repr(code)[:60],
            expected=nearest(str(code), CODES) or ", ".join(CODES),
        )
        return None
    spec = TensorSpec(tuple(shape), CODES[code])
    bits = spec.size * bits_of(spec.dtype)
    if offsets[0] > offsets[1] or bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        bad("the size is wrong", f"{bits / 8:g} bytes for {spec}", f"{offsets[1] - offsets[0]} bytes")
        return None
    return Entry(name, spec, base + offsets[0], offsets[1] - offsets[0])


def _check_cover(entries: Iterator[Entry] | Any, file: FilePath, base: int, size: int) -> None:
    """The tensors must lie one behind the other, and fill the file."""
    end = base
    for entry in sorted(entries, key=lambda one: (one.start, one.start + one.size)):
        if entry.start != end:
            what = "overlaps the one before it" if entry.start < end else "leaves a hole before it"
            raise _damaged(file, f"the tensor '{entry.name}' {what}")
        end = entry.start + entry.size
    if end != size:
        what = f"it should have {end} bytes, and has {size}"
        raise _damaged(file, what, "it is truncated: copy it again" if size < end else None)


def load_sharded(index: FilePath) -> FileTree:
    """Return the tree that an index describes; index and shards must agree.

    Raises:
        FileError: a shard is missing or damaged, a name is missing from its shard or
            stands in another, or the index names a file outside its folder.
    """
    try:
        found = json.loads(index.read_text("utf-8"), object_pairs_hook=_unique)
        weight_map = found["weight_map"]
        pairs = list(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(index, f"it is no index of shards ({error})") from None
    if not all(isinstance(name, str) and isinstance(file, str) for name, file in pairs):
        raise _damaged(index, "its weight_map is not text to text")
    folder = index.parent
    metadata: dict[str, str] = {}
    ties: dict[str, str] = {}
    shards: dict[str, dict[str, Entry]] = {}
    for file in dict.fromkeys(weight_map.values()):
        if FilePath(file).name != file or file in ("", ".", ".."):
            raise _damaged(index, f"it names a file outside its folder: '{file}'")
        if not (folder / file).is_file():
            raise FileError(
                f"the shard '{file}' is missing", verb="load", hint=f"'{index}' lists it: copy it again"
            )
        shards[file], meta = read_header(folder / file)
        ties |= _ties_in(meta, folder / file)
        metadata.update(meta)
    if ties:
        metadata[TIES] = json.dumps(ties)  # each shard says its own
    problems: list[Problem] = []
    tree: dict[str, Lazy] = {}
    for name, file in pairs:
        if name in shards[file]:
            tree[name] = shards[file][name].lazy(folder / file)
        else:
            problems.append(
                Problem("the index names a tensor that its shard lacks", name, found=file, error=FileError)
            )
    for file, entries in shards.items():
        for name in entries:
            if weight_map.get(name) != file:
                text = "a shard holds a tensor that the index does not send there"
                problems.append(Problem(text, name, str(weight_map.get(name)), file, error=FileError))
    raise_problems("load", problems, of=f"{len(pairs)} names in '{index}'")
    return FileTree.of(
        _with_ties(tree, metadata, index), file=str(index), format="safetensors", metadata=metadata
    )


def _with_ties(tree: dict[str, Lazy], metadata: Mapping[str, str], file: FilePath) -> dict[str, Lazy]:
    """Put back the names that were dropped because another holds their tensor."""
    for name, other in _ties_in(metadata, file).items():
        if name in tree or other not in tree:
            raise _damaged(file, f"its {TIES} ties '{name}' to '{other}', which does not fit its tensors")
        tree[name] = tree[other]
    return tree


def _ties_in(metadata: Mapping[str, str], file: FilePath) -> dict[str, str]:
    """Return what a file's metadata says of ties: dropped name -> name that holds the tensor."""
    try:
        return {str(name): str(other) for name, other in json.loads(metadata.get(TIES, "{}")).items()}
    except (ValueError, AttributeError, RecursionError):
        raise _damaged(file, f"its {TIES} is no JSON object") from None


def write(
    leaves: Sequence[FileLeaf], file: FilePath, *, metadata: Mapping[str, str], ties: Mapping[str, str]
) -> None:
    """Write one file, one tensor in memory at a time, in the order of the reference implementation.

    Raises:
        FileError: a tensor is called `__metadata__`, or has a dtype without a code.
    """
    problems = []
    for leaf in leaves:
        if leaf.name == "__metadata__":
            text = "safetensors keeps this name for itself: no reader would take the file"
            problems.append(Problem(text, leaf.name, hint="rename the leaf", error=FileError))
        elif leaf.spec.dtype not in _CODE_OF or bits_of(leaf.spec.dtype) < 8:
            text = "safetensors cannot hold this dtype"
            problems.append(Problem(text, leaf.name, None, str(leaf.spec), "cast it first", FileError))
    raise_problems("save", problems, of=f"{len(leaves)} tensors")
    ordered = sorted(leaves, key=lambda leaf: (_ORDER.index(_CODE_OF[leaf.spec.dtype]), leaf.name))
    with file.open("wb") as stream:
        stream.write(_header(ordered, metadata, ties))
        for leaf in ordered:
            array = leaf.numpy()
            if array.shape != leaf.spec.shape or array.nbytes != leaf.spec.nbytes:
                raise FileError("a leaf is not what its spec says", path=leaf.name, expected=str(leaf.spec))
            stream.write(array.reshape(-1).view("uint8").data)


def _header(leaves: Sequence[FileLeaf], metadata: Mapping[str, str], ties: Mapping[str, str]) -> bytes:
    about = dict(metadata) | ({TIES: json.dumps(dict(sorted(ties.items())))} if ties else {})
    header: dict[str, Any] = {"__metadata__": about} if about else {}
    edges = [0]
    for leaf in leaves:
        edges.append(edges[-1] + leaf.spec.nbytes)
    for leaf, (start, stop) in zip(leaves, pairwise(edges), strict=True):
        code, shape = _CODE_OF[leaf.spec.dtype], list(leaf.spec.shape)
        header[leaf.name] = {"dtype": code, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_sharded(
    leaves: Sequence[FileLeaf],
    folder: FilePath,
    *,
    stem: str,
    limit: int,
    metadata: Mapping[str, str],
    ties: Mapping[str, str],
) -> None:
    """Write shards of at most `limit` bytes of tensors (a larger tensor stands alone), and their index last."""
    shards: list[list[FileLeaf]] = [[]]
    filled = 0
    for leaf in leaves:
        if shards[-1] and filled + leaf.spec.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(leaf)
        filled += leaf.spec.nbytes
    if len(shards) == 1:
        write(leaves, folder / f"{stem}.safetensors", metadata=metadata, ties=ties)
        return
    weight_map: dict[str, str] = {}
    for n, shard in enumerate(shards, 1):
        file = f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors"
        names = {leaf.name for leaf in shard}
        write(
            shard,
            folder / file,
            metadata=metadata,
            ties={name: other for name, other in ties.items() if other in names},
        )
        weight_map.update((leaf.name, file) for leaf in shard)
    total = sum(leaf.spec.nbytes for leaf in leaves)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}{INDEX}").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


FORMAT = Safetensors()
