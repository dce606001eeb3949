"""flax's msgpack files, read through an index of the file and written leaf by leaf.

flax itself reads such a file whole. Here only headers are read; an array is read
when it is used. The bytes written are those of `flax.serialization.to_bytes`
(flax 0.12.8). Reading needs no library; this module imports none but msgpack,
and that only to write.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from surgery.extend import (
    BOX,
    Box,
    FileError,
    FileTree,
    Format,
    Key,
    Lazy,
    Problem,
    TensorSpec,
    Tree,
    find_backend,
    is_known,
    itemsize_in_memory,
    kind_of,
    numpy_dtype,
    raise_problems,
)

if TYPE_CHECKING:
    import numpy as np

CHUNK = 2**30  # bytes; flax cuts larger arrays into chunks of this size
CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # flax's extension types
_PLAIN = (bool, int, float, complex, str, bytes)  # and no subclass: numpy's float64 is a float to Python
_DEPTH = 500
_HEADER = 4096  # bytes that surely hold shape and dtype of an array


class Msgpack(Format):
    """Files that `flax.serialization.to_bytes` wrote."""

    name = "msgpack"
    suffixes = (".msgpack",)
    install = "pip install 'model-surgery[flax]'"

    def recognises(self, file: FilePath, head: bytes, /) -> bool:
        if not head:
            return False
        if 0xC7 <= head[0] <= 0xC9:  # the tree is one array
            at = 1 + (1 << (head[0] - 0xC7))
            return head[at : at + 2] == b"\x01\x93"
        if head == b"\x80":
            return True
        if not (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
            return False
        key = head[1:] if head[0] < 0x90 else head[3:] if head[0] == 0xDE else head[5:]
        return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] in (0xD9, 0xDA, 0xDB) or key[0] <= 0x7F)

    def load(self, file: FilePath, /) -> Tree:
        with file.open("rb", buffering=1 << 16) as stream:
            index = _Index(file, stream)
            try:
                tree = index.value(0)
            except RecursionError:
                raise _damaged(file, "it is nested too deeply") from None
            if stream.read(1):
                raise _damaged(file, "there are bytes behind its end")
        return FileTree.of(tree, file=str(file), format=self.name) if type(tree) is dict else tree

    def save(self, tree: Tree, file: FilePath, /, *, metadata: Mapping[str, str]) -> None:
        import msgpack

        problems: list[Problem] = []
        try:
            _check(tree, (), problems)
        except RecursionError:
            hint = "flatten it first: save(flatten(tree, sep='/'), file)"
            raise FileError("the tree is nested too deeply for msgpack", verb="save", hint=hint) from None
        raise_problems("save", problems)
        packer = msgpack.Packer(use_bin_type=True, strict_types=True)
        with file.open("wb") as stream:
            for piece in _pack(tree, packer):
                stream.write(piece)


def _damaged(file: FilePath, what: str) -> FileError:
    return FileError(f"'{file}' is damaged: {what}", verb="load", hint="it may be truncated: copy it again")


class _Index:
    """Reads the structure of a msgpack file and leaves the arrays where they are."""

    def __init__(self, file: FilePath, stream: Any) -> None:
        self.file = file
        self.stream = stream
        status = os.fstat(stream.fileno())
        self.size = status.st_size
        self.stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def take(self, count: int) -> bytes:
        data: bytes = self.stream.read(count)
        if len(data) < count:
            raise _damaged(self.file, "it ends too early")
        return data

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def value(self, depth: int) -> Any:
        """Read one value; an array becomes a lazy leaf."""
        code = self.take(1)[0]
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code <= 0x8F:
            return self.mapping(code & 0xF, depth)
        if code <= 0x9F:
            return self.sequence(code & 0xF, depth)
        if code <= 0xBF:
            return self.text(code & 0x1F)
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if code in simple:
            return simple[code]
        layouts = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
        layouts |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
        if code in layouts:
            return self.number(layouts[code])
        if code in (0xC4, 0xC5, 0xC6):
            return self.take(self.length(code - 0xC4))
        if code in (0xD9, 0xDA, 0xDB):
            return self.text(self.length(code - 0xD9))
        if code in (0xDC, 0xDD):
            return self.sequence(self.length(code - 0xDB), depth)
        if code in (0xDE, 0xDF):
            return self.mapping(self.length(code - 0xDD), depth)
        if code in (0xC7, 0xC8, 0xC9):
            return self.extension(self.length(code - 0xC7))
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        raise _damaged(self.file, f"no value begins with the byte {code:#x}")

    def length(self, width: int) -> int:
        """Read a length of 1, 2 or 4 bytes, which the file must be able to hold."""
        length: int = self.number((">B", ">H", ">I")[width])
        if length > self.size:
            raise _damaged(self.file, f"something in it would be {length} long")
        return length

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.file, "a text in it is no UTF-8") from None

    def sequence(self, length: int, depth: int) -> list[Any]:
        self.check(depth, length)
        return [self.value(depth + 1) for _ in range(length)]

    def mapping(self, length: int, depth: int) -> Any:
        self.check(depth, length)
        out: dict[Any, Any] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, (str, int, bytes)):
                raise _damaged(self.file, "a key in it is neither text nor number")
            if key in out:
                raise _damaged(self.file, f"the key {key!r} stands twice")
            out[key] = self.value(depth + 1)
        return self.chunked(out) if CHUNKED in out else out

    def check(self, depth: int, length: int) -> None:
        if depth > _DEPTH or length > self.size:
            raise _damaged(self.file, "it is nested too deeply, or too long")

    def extension(self, length: int) -> Any:
        kind = self.number(">b")
        start = self.stream.tell()
        if start + length > self.size:
            raise _damaged(self.file, "an array reaches beyond its end")
        if kind == _ARRAY:
            leaf = self.array(start, length)
            self.stream.seek(start + length)
            return leaf
        if kind == _COMPLEX:
            found = _small(self.take(length), self.file)
            if not (isinstance(found, list) and [type(part) for part in found] == [float, float]):
                raise _damaged(self.file, "a complex number has not two parts")
            return complex(*found)
        if kind == _SCALAR:
            import numpy as np

            found = _small(self.take(length), self.file)
            if not (isinstance(found, list) and len(found) == 3 and isinstance(found[2], bytes)):
                raise _damaged(self.file, "a scalar has no bytes")
            name = _name(found[1], self.file)
            if found[0] != [] or len(found[2]) != itemsize_in_memory(name):
                raise _damaged(self.file, f"a scalar of {name} has {len(found[2])} bytes")
            return np.frombuffer(found[2], numpy_dtype(name))[0]
        raise FileError(f"'{self.file}' holds a value of the unknown extension type {kind}", verb="load")

    def array(self, start: int, length: int) -> Lazy:
        """The header of an array is itself msgpack: shape, name of the dtype, then the bytes."""
        if self.number(">B") != 0x93:
            raise _damaged(self.file, "the header of an array is none")
        shape, dtype = self.value(_DEPTH), self.value(_DEPTH)
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise _damaged(self.file, "the shape of an array is none")
        name = _name(dtype, self.file)
        code = self.number(">B")
        if code not in (0xC4, 0xC5, 0xC6):
            raise _damaged(self.file, "an array has no bytes")
        size = self.length(code - 0xC4)
        spec = TensorSpec(tuple(shape), name)
        at = self.stream.tell()
        if size != spec.size * itemsize_in_memory(name) or at + size != start + length:
            raise _damaged(self.file, f"an array of {spec} has {size} bytes")
        return Lazy(spec, _Reader(self, spec, at), origin=f"{self.file.name}[{at}:{at + size}]")

    def chunked(self, found: dict[Any, Any]) -> Lazy:
        """An array too large for one msgpack value: its parts, as flat arrays."""
        shape, chunks = _numbered(found.get("shape")), _numbered(found.get("chunks"))
        if not chunks or not all(isinstance(chunk, Lazy) for chunk in chunks):
            raise _damaged(self.file, "a chunked array has no chunks")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise _damaged(self.file, "the shape of an array is none")
        if len({chunk.spec.dtype for chunk in chunks}) > 1:
            raise _damaged(self.file, "the chunks of an array are of several dtypes")
        spec = TensorSpec(tuple(shape), chunks[0].spec.dtype)
        if sum(chunk.spec.size for chunk in chunks) != spec.size:
            raise _damaged(self.file, "the chunks of an array do not add up")

        def read(box: Box) -> np.ndarray[Any, Any]:
            import numpy as np

            whole = np.concatenate([chunk.read() for chunk in chunks]).reshape(spec.shape)
            return whole[tuple(slice(*span) for span in box)]

        return Lazy(spec, read, origin=f"{self.file.name} in {len(chunks)} chunks")


class _Reader:
    """Reads boxes of one array: the rows that hold the box, in one read."""

    def __init__(self, index: _Index, spec: TensorSpec, start: int) -> None:
        self.file, self.stamp, self.spec, self.start = index.file, index.stamp, spec, start

    def __call__(self, box: Box) -> np.ndarray[Any, Any]:
        import numpy as np

        shape = self.spec.shape
        row = prod(shape[1:]) * itemsize_in_memory(self.spec.dtype)
        low, high = box[0] if shape else (0, 1)
        array = np.empty((high - low, *shape[1:]) if shape else (), numpy_dtype(self.spec.dtype))
        view = array.reshape(-1).view(np.uint8).data
        with self.file.open("rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != self.stamp:
                raise FileError(f"'{self.file}' changed since it was loaded", hint="load it again")
            stream.seek(self.start + low * row)
            done = 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise _damaged(self.file, "it ends too early")
                done += count
        return array[(slice(None), *(slice(*span) for span in box[1:]))] if shape else array


def _numbered(found: Any) -> list[Any]:
    """Flax spells a tuple as a mapping from "0" on."""
    if isinstance(found, dict):
        return [found[key] for key in sorted(found, key=lambda key: int(key) if str(key).isdecimal() else -1)]
    return found if isinstance(found, list) else []


def _name(dtype: Any, file: FilePath) -> str:
    name = (
        "bfloat16"
        if dtype in ("V2", b"bfloat16")
        else dtype.decode("latin-1")
        if isinstance(dtype, bytes)
        else dtype
    )
    if not isinstance(name, str) or not is_known(name):
        raise FileError(f"'{file}' holds an array of the unknown dtype {dtype!r}", verb="load")
    return name


def _small(data: bytes, file: FilePath) -> Any:
    import io

    stream = io.BytesIO(data)

    class Inner(_Index):
        def __init__(self) -> None:
            self.file, self.stream, self.size, self.stamp = file, stream, len(data), (0, 0, 0, 0)

    return Inner().value(_DEPTH - 2)  # a short list of short lists, and no deeper


def _check(node: Tree, path: tuple[Key, ...], problems: list[Problem]) -> None:
    """Find everything that the file cannot hold, before it is begun."""
    text = "/".join(map(str, path))
    kind = kind_of(node)
    if kind is not None:
        children = kind.open(node)[1]
        names = [str(key) for key in children]
        if len(set(names)) < len(names):
            problems.append(Problem("two keys are one as text", text, hint="rename one", error=FileError))
        for key, child in children.items():
            _check(child, path if key == BOX else (*path, key), problems)
        return
    if type(node) in _PLAIN:
        if type(node) is int and not -(2**63) <= node < 2**64:
            problems.append(Problem("the number needs more than 64 bits", text, error=FileError))
        return
    backend = find_backend(node)
    if backend is None or not backend.holds_data(node):
        found = f"a {type(node).__name__}"
        what = "msgpack cannot hold this leaf" if backend is None else "a leaf has no data"
        problems.append(Problem(what, text, found=found, error=FileError))
    elif not is_known(backend.spec(node).dtype):
        found = str(backend.spec(node))
        hint = (
            "save a PRNG key as jax.random.key_data(key)" if found.startswith("key<") else "cast or drop it"
        )
        problems.append(Problem("msgpack cannot hold this dtype", text, None, found, hint, FileError))


def _pack(node: Tree, packer: Any) -> Iterator[bytes]:
    """Yield the bytes of a tree as flax writes them: every container a mapping with text keys."""
    kind = kind_of(node)
    if node is None:
        yield packer.pack(None)
    elif kind is not None:
        children = kind.open(node)[1]
        box = kind.family == "box"
        yield packer.pack_map_header(len(children))
        for key, child in children.items():
            yield packer.pack("value" if box else str(key))
            yield from _pack(child, packer)
    elif type(node) is complex:
        parts = packer.pack_array_header(2) + packer.pack(node.real) + packer.pack(node.imag)
        yield _extension(packer, _COMPLEX, parts)
    elif type(node) in _PLAIN:
        yield packer.pack(node)
    else:
        yield from _pack_array(node, packer)


def _pack_array(leaf: Any, packer: Any) -> Iterator[bytes]:
    import numpy as np

    backend = find_backend(leaf)
    assert backend is not None  # _check took care
    array = np.ascontiguousarray(backend.to_numpy(leaf))
    code = _SCALAR if isinstance(leaf, np.generic) else _ARRAY
    if array.nbytes <= CHUNK:
        yield _extension(packer, code, _array_data(packer, array.reshape(np.shape(leaf))))
        return
    flat = array.reshape(-1)
    step = max(1, CHUNK // array.itemsize)
    parts = [flat[start : start + step] for start in range(0, flat.size, step)]
    yield packer.pack_map_header(3)
    yield packer.pack(CHUNKED) + packer.pack(True)
    yield packer.pack("shape") + packer.pack({str(n): size for n, size in enumerate(array.shape)})
    yield packer.pack("chunks") + packer.pack_map_header(len(parts))
    for n, part in enumerate(parts):
        yield packer.pack(str(n))
        yield _extension(packer, _ARRAY, _array_data(packer, part))


def _array_data(packer: Any, array: np.ndarray[Any, Any]) -> bytes:
    shape = packer.pack_array_header(array.ndim) + b"".join(packer.pack(size) for size in array.shape)
    data: bytes = (
        packer.pack_array_header(3) + shape + packer.pack(array.dtype.name) + packer.pack(array.tobytes())
    )
    return data


def _extension(packer: Any, code: int, data: bytes) -> bytes:
    packed: bytes = packer.pack_ext_type(code, data)
    return packed


FORMAT = Msgpack()
