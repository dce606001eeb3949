"""What a plan says about one binding, line by line."""

from __future__ import annotations

from surgery._paths.path import text_of
from surgery._report import Row, fold
from surgery._rules.binding import Binding
from surgery._rules.stage import Stage
from surgery._types import Path


def rows_of(binding: Binding, stage: Stage) -> list[Row]:
    """The lines of a report about one binding."""
    ops = ", ".join(repr(op) for op in binding.ops)
    sources = [path for names in binding.sources for path in names]
    if binding.tie is not None:
        note = f"alias of '{text_of(binding.tie, stage.structure.sep)}'"
        return [
            Row("tied", path, note=note, at_source=bool(sources))
            for path in (sources or [p for names in binding.targets for p in names])
        ]
    if not binding.targets:
        return [
            Row("dropped", path, before=str(spec), at_source=True)
            for path, spec in zip(sources, binding.ins, strict=False)
        ]
    why = binding.loss()
    sep = stage.structure.sep
    note = ops + (f"; lost: {why}" if why else "")
    if len(sources) > 1:
        note += "; from " + ", ".join(one.text for one in fold([Row("", path) for path in sources], sep))
    rows = []
    for n, names in enumerate(binding.targets):
        for k, path in enumerate(names):
            own = binding.sources[n] if len(binding.sources) == len(binding.targets) else ()
            source = own[min(k, len(own) - 1)] if own else next(iter(sources), None)
            before = str(binding.ins[0]) if binding.ins else ""
            after = str(binding.outs[n]) if binding.outs else ""
            status = _status(binding, source, path)
            place = source if source != path and len(sources) == 1 else None
            rows.append(Row(status, path, before if before != after else "", after, note, place))
    return rows


def _status(binding: Binding, source: Path | None, target: Path) -> str:
    if binding.remainder:
        return "restored"
    if binding.makes:
        return "made"
    if binding.steps:
        return "changed"
    return "kept" if source == target else "renamed"
