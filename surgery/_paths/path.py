r"""Paths and their text: written with escapes, read back exactly.

Inside, a path is a tuple of keys and nothing else. Text exists at the edges,
and two different paths never print the same: int `0` prints `[0]`, the string
`"0"` prints `0`, an empty key prints `""`. The text of a path is also a
pattern that matches that path.

`\` escapes a separator, `\` itself, the pattern characters `*` `{` `}`, and at
the start of a key `[` `"` `<`. Keys that are neither str nor int print as
`<repr>` and cannot be read back: use the tuple.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

from surgery._errors import PathError
from surgery._types import Key, Path

_SPECIAL = re.compile(r'[\\/.*{}?:"<\[]|^$')
_ESCAPED = {sep: re.compile(rf"[\\*{{}}{re.escape(sep)}]") for sep in "/."}
_DIGITS = re.compile(r"(\d+)")
INT_KEY = re.compile(r"\[(0|-?[1-9]\d*)\]")

PLAIN: set[str] = set()  # keys seen that print as themselves: lets a walk skip the escaping
_PLAIN_LIMIT = 65_536


def all_plain(keys: Iterable[Any]) -> bool:
    """Whether every key is a str that prints as itself, in any pattern and with any separator.

    A key of a subclass of str, such as an enum, passes where it equals one that was seen:
    who hands keys to a pattern, or joins them, looks at their type too.
    """
    if PLAIN.issuperset(keys):
        return True
    fresh = [key for key in keys if key not in PLAIN]
    for key in fresh:
        if type(key) is not str or _SPECIAL.search(key):
            return False
    if len(PLAIN) < _PLAIN_LIMIT:
        PLAIN.update(fresh)
    return True


def key_text(key: Key, sep: str = "/") -> str:
    """Return the text of one key, escaped for `sep`."""
    if type(key) is int:
        return f"[{key}]"
    if type(key) is not str:
        return "<" + _ESCAPED[sep].sub(r"\\\g<0>", repr(key)) + ">"
    if key in PLAIN:
        return key
    if not key:
        return '""'
    text = _ESCAPED[sep].sub(r"\\\g<0>", key)
    if text[0] in '["<' or text.startswith("re:"):
        text = "\\" + text
    if text[-1] == "?":  # a pattern that ends so is an optional rule
        text = text[:-1] + "\\?"
    return text


def text_of(path: Path, sep: str = "/") -> str:
    r"""Return the text form of `path`.

    Args:
        path: the keys.
        sep: `"/"` or `"."`. With `"."`, a slash inside a key is escaped too,
            because an unescaped slash decides how a text is read.

    >>> text_of(("layers", 0, "kernel")), text_of(("layers", "0", "kernel"))
    ('layers/[0]/kernel', 'layers/0/kernel')
    >>> print(text_of(("mlp/~/linear", "w")))
    mlp\/~\/linear/w
    """
    parts = [key_text(key, sep) for key in path]
    if sep == ".":
        parts = [part.replace("/", "\\/") for part in parts]
    elif len(parts) == 1:
        parts = [part.replace(".", "\\.") for part in parts]
    return sep.join(parts)


def split_text(text: str, sep: str | None = None) -> tuple[str, list[str]]:
    r"""Split text at its unescaped separators, outside braces; return `(sep, parts)`.

    Unless `sep` is given, the text decides its own: `/` if it holds an unescaped
    one, else `.`. Escapes stay in the parts.

    >>> split_text("encoder.layer.0"), split_text("encoder/layer.0")
    (('.', ['encoder', 'layer', '0']), ('/', ['encoder', 'layer.0']))
    """
    depth, i = 0, 0
    cuts: dict[str, list[int]] = {"/": [], ".": []}
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
        elif depth == 0 and char in cuts:
            cuts[char].append(i)
        i += 1
    sep = sep or ("/" if cuts["/"] else ".")
    edges = [-1, *cuts[sep], len(text)]
    return sep, [text[a + 1 : b] for a, b in itertools.pairwise(edges)]


def unescape(part: str) -> str:
    """Undo the escapes of one key's text."""
    return re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL)


def parse_path(text: str, sep: str | None = None) -> Path:
    r"""Read a path back from its text; the inverse of `text_of`.

    Unless `sep` is given, the text decides its own separator (`split_text`).

    Raises:
        PathError: the text holds a pattern, or a key that has no readable text.

    >>> parse_path("layers/[0]/kernel"), parse_path("layers.0.kernel"), parse_path("")
    (('layers', 0, 'kernel'), ('layers', '0', 'kernel'), ())
    """
    if not text:
        return ()
    return tuple(_parse_key(part, text) for part in split_text(text, sep)[1])


def _parse_key(part: str, text: str) -> Key:
    if part == '""':
        return ""
    if not part:
        raise PathError(f"an empty key in '{text}'", hint='write an empty key as ""')
    match = INT_KEY.fullmatch(part)
    if match:
        return int(match[1])
    if part[0] == "<":
        raise PathError(f"{part} in '{text}' cannot be read back", hint="give the path as a tuple of keys")
    if part[0] == "[" or re.search(r"(?<!\\)(?:\\\\)*[*{}]", part):
        raise PathError(
            f"'{text}' is a pattern, not a path", hint="escape with \\, or use a verb that takes patterns"
        )
    return unescape(part)


def natural_key(path: Path) -> tuple[Any, ...]:
    """Return a sort key that puts `layer_2` before `layer_10`, and never fails on mixed keys.

    >>> sorted([("h", "10"), ("h", "2"), ("h", 1)], key=natural_key)
    [('h', 1), ('h', '2'), ('h', '10')]
    """
    return tuple(_natural(key) for key in path)


def _natural(key: Key) -> tuple[tuple[int, Any], ...]:
    if type(key) is int:
        return ((0, key),)
    text = key if type(key) is str else repr(key)
    pieces = _DIGITS.split(text)
    return tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece)
