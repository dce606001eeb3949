"""Rules as the text of a recipe file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from surgery._errors import RuleError
from surgery._ops.base import Op
from surgery._ops.structure import copies
from surgery._rules.rules import Rule, as_list


def rules_to_toml(rules: Sequence[Rule]) -> str:
    """Return a recipe file that holds these rules.

    Raises:
        RuleError: a rule holds a predicate or a path tuple, which text cannot say.
    """
    lines = ["version = 1", "", "rules = ["]
    for rule in rules:
        fields = [f"from = {_side(rule.source, rule)}", f"to = {_side(rule.target, rule)}"]
        ops = [op for op in rule.ops if not isinstance(op, copies)]
        if ops:
            fields.append(f"ops = [{', '.join(_op(op) for op in ops)}]")
        if rule.optional and not _says_optional(rule.source):
            fields.append("optional = true")
        if rule.expect is not None:
            fields.append(f"expect = {rule.expect}")
        if rule.when is not None:
            fields.append(f"when = {_value(rule.when)}")
        lines.append(f"  {{ {', '.join(fields)} }},")
    return "\n".join([*lines, "]", ""])


def _says_optional(source: Any) -> bool:
    return isinstance(source, str) and source.endswith("?") and not source.endswith("\\?")


def _side(side: Any, rule: Rule) -> str:
    texts = as_list(side)
    for text in texts:
        if not isinstance(text, str):
            raise RuleError(
                f"{rule!r} cannot be written to a file",
                verb="to_recipe",
                hint="use text patterns on both sides",
            )
    return _value(texts[0] if len(texts) == 1 else texts)


def _op(op: Op) -> str:
    params = op.params()
    if not params:
        return _value(op.name)
    return f"{{ op = {_value(op.name)}, {', '.join(f'{key} = {_value(value)}' for key, value in params.items())} }}"


def _value(value: Any) -> str:
    """Spell plain data as TOML; its basic strings are those of JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # TOML spells inf and nan as Python does
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
