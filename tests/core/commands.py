"""What the tests of the command share: running it in this process, and a file to run it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import surgery as sg


class Done(NamedTuple):
    """What a run of the command left: its code, its data, its messages."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


SPECS = {"enc.0.w": (2, 3), "enc.1.w": (2, 3), "head.w": (3,)}


def rows(done: Done) -> list[tuple[str, str, str]]:
    """Return status, path and what is there now of every row that a run printed as JSON."""
    return [(row["status"], row["path"], row["after"]) for row in done.data["rows"]]


def changed(file: Path, name: str, **changes: Any) -> Path:
    out = file.with_name(name)
    sg.save(sg.realize(sg.load(file)) | changes, out)
    return out
