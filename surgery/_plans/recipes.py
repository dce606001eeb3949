"""Recipes: the conversion of a model family as data, in a TOML file, read in both directions."""

from __future__ import annotations

import ast
import operator
import re
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import msgspec

import surgery._ops.axes
import surgery._ops.relayout
import surgery._ops.values  # noqa: F401  (a recipe may name any op: each is known once its room is loaded)
from surgery._errors import FileError, RuleError, SurgeryError, nearest
from surgery._ops.base import Op, op_of
from surgery._rules.rules import Rule, reversed_rule
from surgery._trees.nodes import BUILT_IN
from surgery._trees.structure import Node, Structure
from surgery._types import Path

VERSION = 1
Family = Literal["torch", "linen", "nnx", "numpy"]


class RuleFile(msgspec.Struct, forbid_unknown_fields=True):
    """One rule as a file spells it."""

    source: str | list[str] = msgspec.field(name="from")
    target: str | list[str] = msgspec.field(name="to")
    ops: list[str | dict[str, Any]] = []
    optional: bool = False
    expect: int | str | None = None
    when: str | None = None


class RecipeFile(msgspec.Struct, forbid_unknown_fields=True):
    """A recipe file."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    rules: list[RuleFile]
    source: Family | None = msgspec.field(name="from", default=None)
    target: Family | None = msgspec.field(name="to", default=None)
    title: str = ""
    params: dict[str, str | int] = {}
    include: list[str] = []


@dataclass(frozen=True)
class Recipe:
    """Edit rules in a file, with parameters that a model's config fills in.

    Made by `recipe(name)`. It stands wherever rules do: `plan(recipe("hf/bert"), tree)`.

    Attributes:
        name: as it was asked for.
        text: the file.
        backwards: read from target to source.
    """

    name: str
    text: str
    backwards: bool = False

    @cached_property
    def file(self) -> RecipeFile:
        """The file, validated, with what it includes behind its own rules."""
        return _parse(self.name, self.text)

    @property
    def title(self) -> str:
        """What the recipe converts."""
        return self.file.title

    @property
    def source(self) -> str | None:
        """The framework whose trees it takes."""
        return self.file.target if self.backwards else self.file.source

    @property
    def target(self) -> str | None:
        """The framework whose trees it makes."""
        return self.file.source if self.backwards else self.file.target

    def reverse(self) -> Recipe:
        """Return the recipe that goes the other way."""
        return replace(self, backwards=not self.backwards)

    def rules_for(self, config: Mapping[str, Any] | None) -> list[Rule]:
        """Return the rules, with values of the config in the parameters of their ops.

        Raises:
            RuleError: the config lacks a value, or a rule cannot be read in this direction.
        """
        values = _Params(self.name, self.file.params, config)
        out = []
        for n, written in enumerate(self.file.rules, 1):
            try:
                rule = _rule(written, values, self.name)
                if not self.backwards:
                    out.append(rule)
                elif rule.target is not None or _is_tie(rule):
                    out.append(reversed_rule(rule))
            except SurgeryError as error:
                first = error.problems[0]
                raise RuleError(
                    f"{self.name}, rule {n}: {first.message}",
                    verb="recipe",
                    expected=first.expected,
                    found=first.found,
                    hint=first.hint,
                ) from None
        return out

    @property
    def absent(self) -> tuple[str, ...]:
        """Read backwards: what was dropped on the way here, so that only a remainder can give it back."""
        if not self.backwards:
            return ()
        return tuple(
            text.removesuffix("?")  # it is optional either way
            for rule in self.file.rules
            if rule.target == []
            and not any(isinstance(op, dict) and op.get("op") == "tie" for op in rule.ops)
            for text in ([rule.source] if isinstance(rule.source, str) else rule.source)
        )

    def containers(self, paths: Iterable[Path]) -> Structure | None:
        """Return the containers of what the recipe makes: a state_dict for torch, nested dicts for linen."""
        if self.target == "torch":
            names = tuple(".".join(map(str, path)) for path in paths)
            return Structure({(): (Node(BUILT_IN[OrderedDict], None, names, "."),)})
        return Structure() if self.target is not None else None

    def __repr__(self) -> str:
        return f"Recipe('{self.name}'{', backwards' if self.backwards else ''})"


Recipe.__module__ = "surgery"


def recipe(name: str | FilePath) -> Recipe:
    """Return a recipe that comes with the package, or one in a TOML file.

    Args:
        name: such as `"hf/bert"`, or the path of a file.

    Raises:
        FileError: there is no such recipe, or the file is none.

    >>> recipe("hf/bert")
    Recipe('hf/bert')
    """
    file = FilePath(name)
    if str(name).endswith(".toml") or file.is_file():
        try:
            return Recipe(str(name), file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"the recipe '{name}' cannot be read: {error}", verb="recipe") from None
    found = _built_in().get(str(name))
    if found is None:
        known = list(_built_in())
        hint = nearest(str(name), known) or f"known: {', '.join(known)}"
        raise FileError(f"no recipe is called '{name}'", verb="recipe", hint=hint)
    return Recipe(str(name), found.read_text("utf-8"))


def recipes() -> list[Recipe]:
    """Return the recipes that come with the package.

    >>> [one.name for one in recipes()]
    ['hf/bert']
    """
    return [recipe(name) for name in _built_in()]


def _built_in() -> dict[str, Any]:
    root = resources.files("surgery") / "recipes"
    return {
        f"{family.name}/{file.name.removesuffix('.toml')}": file
        for family in sorted(root.iterdir(), key=lambda one: one.name)
        if family.is_dir()
        for file in sorted(family.iterdir(), key=lambda one: one.name)
        if file.name.endswith(".toml")
    }


def _parse(name: str, text: str, seen: tuple[str, ...] = ()) -> RecipeFile:
    read: dict[str, Any] = {}
    try:
        read = tomllib.loads(text)
        file = msgspec.convert(read, RecipeFile)
    except tomllib.TOMLDecodeError as error:
        hint = "what stands in braces stands on one line" if _at_line_end(str(error), text) else None
        raise FileError(f"the recipe '{name}' is no TOML: {error}", verb="recipe", hint=hint) from None
    except msgspec.ValidationError as error:
        below = "rules = [...] goes above [params]: what stands below a table's name is in that table"
        hint = below if isinstance(read.get("params"), dict) and "rules" in read["params"] else None
        message = f"the recipe '{name}' is not valid: {_located(str(error))}"
        raise FileError(message, verb="recipe", hint=hint) from None
    if file.version > VERSION:
        found = f"version {file.version}"
        raise FileError(f"the recipe '{name}' is newer than this package", verb="recipe", found=found)
    for other in file.include:
        if other in (*seen, name):
            raise FileError(f"the recipe '{name}' includes itself through '{other}'", verb="recipe")
        inside = _parse(other, recipe(other).text, (*seen, name))
        file.rules = [*file.rules, *inside.rules]
        file.params = {**inside.params, **file.params}
    return file


def _at_line_end(message: str, text: str) -> bool:
    """Whether a key is missed where a line ends: in an inline table, which TOML keeps on one line."""
    place = re.search(r"key part \(at line (\d+), column (\d+)\)", message)
    return place is not None and int(place[2]) > len(text.splitlines()[int(place[1]) - 1].rstrip())


def _located(message: str) -> str:
    """Say `rule 3` where msgspec says `$.rules[2]`."""
    text, found, place = message.partition(" - at `$")
    if not found:
        return message
    place = place.rstrip("`").lstrip(".")
    if place.startswith("rules["):
        number, _, field = place[len("rules[") :].partition("]")
        place = f"rule {int(number) + 1 if number.isdigit() else number}{field.replace('.', ', ', 1)}"
    return f"{text} in {place}"


def _rule(written: RuleFile, values: _Params, name: str) -> Rule:
    source = None if written.source == [] else written.source
    target = None if written.target == [] else written.target
    expect = values.fill(written.expect)
    if expect is not None and type(expect) is not int:
        raise RuleError("expect is no number", found=repr(expect), hint="a number, or '$name' of a parameter")
    ops = [_op(op, values) for op in written.ops]
    return Rule(
        source,
        target,
        *ops,
        optional=written.optional,
        expect=expect,
        when=written.when,
        origin=f"{name}, rule",
    )


def _op(written: str | dict[str, Any], values: _Params) -> Op:
    if isinstance(written, str):
        return op_of(written, {})
    params = dict(written)
    name = params.pop("op", None)
    if not isinstance(name, str):
        raise RuleError('an op is written as { op = "stack", axis = 0 }', found=repr(written))
    return op_of(name, {key: values.fill(value) for key, value in params.items()})


def _is_tie(rule: Rule) -> bool:
    return any(op.name == "tie" for op in rule.ops)


class _Params:
    """The parameters of a recipe, computed from a config when an op asks for them."""

    def __init__(self, name: str, written: Mapping[str, str | int], config: Mapping[str, Any] | None) -> None:
        self.name = name
        self.written = written
        self.config = config
        self.open: list[str] = []  # parameters that are being computed, one for the other

    def fill(self, value: Any) -> Any:
        """Replace `"$name"` by the value of that parameter, in lists too."""
        if isinstance(value, list):
            return [self.fill(one) for one in value]
        if isinstance(value, str) and value.startswith("$"):
            return self.value(value[1:])
        return value

    def value(self, name: str) -> Any:
        if name not in self.written:
            known = nearest(name, self.written) or f"known: {', '.join(self.written) or 'none'}"
            raise RuleError(f"the recipe has no parameter '{name}'", hint=known)
        expression = self.written[name]
        if not isinstance(expression, str):
            return expression
        if self.config is None:
            raise RuleError(
                f"the parameter '{name}' comes from the model's config, and there is none",
                hint="load a folder with its config.json, or give config=",
            )
        if name in self.open:
            raise RuleError(f"the parameter '{name}' depends on itself: {' -> '.join([*self.open, name])}")
        self.open.append(name)
        try:
            value = _evaluate(ast.parse(expression, mode="eval").body, self._look_up)
        except (SyntaxError, TypeError, ZeroDivisionError) as error:
            raise RuleError(f"the parameter '{name}' = {expression!r} cannot be computed: {error}") from None
        finally:
            self.open.pop()
        if value is None:
            raise RuleError(
                f"the config has no value for '{name}' = {expression!r}", hint="give config= with it"
            )
        return value

    def _look_up(self, name: str) -> Any:
        config = self.config or {}
        return config[name] if name in config else self.value(name) if name in self.written else None


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _evaluate(node: ast.expr, look_up: Callable[[str], Any]) -> Any:
    """Evaluate names, numbers, + - * //, `a.b`, and `a or b` for a value that may be missing."""
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Name(id=name):
            return look_up(name)
        case ast.Attribute(value=inner, attr=name):
            found = _evaluate(inner, look_up)
            return found.get(name) if isinstance(found, Mapping) else None
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _evaluate(left, look_up), _evaluate(right, look_up)
            return None if a is None or b is None else _BINARY[type(op)](a, b)
        case ast.BoolOp(op=ast.Or(), values=values):
            return next((value for one in values if (value := _evaluate(one, look_up)) is not None), None)
    raise SyntaxError("only names, numbers, + - * // and `or` are allowed")
