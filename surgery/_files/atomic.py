"""Output that is complete or absent: written beside its place, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath

from surgery._errors import FileError


@contextmanager
def replacing(file: FilePath, *, overwrite: bool, folder: bool = False) -> Iterator[FilePath]:
    """Give a temporary sibling to write to; on success sync it and rename it to `file`.

    After an error, or when interrupted, nothing lies under the final name that was
    not there before.

    Raises:
        FileError: `file` exists and `overwrite` is not set, or writing failed.
    """
    _refuse_existing(file, overwrite)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)
    except OSError as error:
        raise FileError(f"'{file}' cannot be written: {error.strerror}", verb="save") from error
    work = FilePath(made)
    inside = work / file.name
    try:
        if folder:
            inside.mkdir()
        yield inside
        for path in inside.rglob("*") if folder else [inside]:
            if path.is_file():
                _sync(path)
        _refuse_existing(file, overwrite)
        _rename(inside, file, work)
        _sync(file.parent)
    except OSError as error:
        raise FileError(f"writing '{file}' failed: {error.strerror or error}", verb="save") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_existing(file: FilePath, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(file):
        raise FileError(
            f"'{file}' exists already",
            verb="save",
            hint="overwrite=True replaces it (on the command line: --force)",
        )


def _rename(source: FilePath, target: FilePath, work: FilePath) -> None:
    """Rename over whatever is there. A folder cannot be renamed over: the old one steps aside first."""
    if target.is_dir() and not target.is_symlink():
        aside = work / "replaced"
        os.rename(target, aside)
        try:
            os.rename(source, target)
        except OSError:
            os.rename(aside, target)
            raise
    else:
        os.replace(source, target)


def _sync(path: FilePath) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
