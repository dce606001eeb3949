"""Recipes: rules in a file, with parameters from a config, read in both directions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import surgery as sg
from surgery import ops
from tests.core.test_plan import KINDS, layered


def grid(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(float(np.prod(shape))).reshape(shape)


TREE = {"w": grid(4, 2), "b": grid(2)}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that makes a recipe of the text of a file."""

    def made(text: str, name: str = "mine.toml") -> sg.Recipe:
        file = tmp_path / name
        file.write_text(text, "utf-8")
        return sg.recipe(file)

    return made


# --- a file says what rules say --------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_rules_written_to_a_file_make_the_same_plan_when_they_are_read(name: str, write: Any) -> None:
    plan = sg.plan(KINDS[name][0], layered())
    read = write(plan.to_recipe())
    assert sg.plan(read, layered(), rest="keep").hash == plan.hash


@pytest.mark.parametrize(
    "rule",
    [
        sg.Rule("w", "x", expect=1),
        sg.Rule("w", "x", when="b"),
        sg.Rule("nothing", "x", optional=True),
        ("w?", "x"),
        ("w", None),
        (None, "n", ops.new([2], init=float("inf"))),
        ("w", "x", ops.rearrange("(h d) i -> i h d", h=2)),
        ("re:w|b", "moved/**"),
        ('\\{w\\}"\u00e9?', "x"),
    ],
)
def test_what_a_rule_says_beside_its_sides_is_written_too(rule: Any, write: Any) -> None:
    written = sg.plan([rule], TREE)
    (read,) = write(written.to_recipe()).rules_for(None)
    wanted = rule if isinstance(rule, sg.Rule) else sg.Rule(*rule)
    assert read == wanted and read.when == wanted.when and read.expect == wanted.expect


def test_what_no_file_can_hold_is_refused() -> None:
    for source in (("w",), lambda path, leaf: True):
        plan = sg.plan([(source, "**" if callable(source) else "x")], TREE)
        with pytest.raises(sg.RuleError) as error:
            plan.to_recipe()
        assert str(error.value).startswith("to_recipe: Rule(")
        assert str(error.value).endswith(
            "cannot be written to a file\n  hint: use text patterns on both sides"
        )
    with pytest.raises(sg.RuleError) as error:
        sg.plan([("w", "x")], TREE).inverse().to_recipe()
    assert str(error.value) == (
        "to_recipe: an inverse has bindings, not rules\n  hint: write the plan it came from"
    )


def test_a_recipe_asks_for_a_rule_for_every_leaf(write: Any) -> None:
    recipe = write("version = 1\nrules = [{ from = 'w', to = 'x' }]")
    with pytest.raises(sg.RuleError, match="no rule takes a leaf at 'b'"):
        sg.plan(recipe, TREE)
    assert set(sg.plan(recipe, TREE, rest="keep").apply(TREE)) == {"x", "b"}


# --- both directions -------------------------------------------------------------------------------

BOTH = """
version = 1
from = "torch"
to = "linen"
rules = [
  { from = "{p:**}.qkv.weight", to = "{p}/{q|k|v}/kernel", ops = ["split", "transpose"] },
  { from = "h.{i:int}.w", to = "h/w", ops = [{ op = "stack", axis = 1 }] },
  { from = "emb.weight", to = "emb/table", ops = [{ op = "take", indices = [2, 0, 1], size = 3 }] },
  { from = "ids?", to = [] },
  { from = [], to = "head/bias", ops = [{ op = "new", shape = [2] }] },
]
"""


def state_dict() -> dict[str, Any]:
    return {
        "a.qkv.weight": grid(6, 2),
        **{f"h.{n}.w": grid(3) + n for n in range(11)},
        "emb.weight": grid(3, 2),
    }


def test_a_recipe_read_backwards_undoes_the_one_read_forwards(write: Any) -> None:
    recipe = write(BOTH)
    tree = state_dict()
    plan = sg.plan(recipe, tree)
    out = plan.apply(tree)
    assert set(sg.flatten(out, sep="/")) == {
        *("a/q/kernel", "a/k/kernel", "a/v/kernel"),
        *("h/w", "emb/table", "head/bias"),
    }
    back = sg.plan(recipe.reverse(), out).apply(out, remainder=False)
    assert list(back) == list(tree) and sg.equal(dict(back), tree)
    assert sg.equal(dict(plan.inverse().apply(out)), tree), "the inverse of the plan agrees"


def test_what_was_dropped_comes_back_from_the_remainder_or_is_asked_for(write: Any) -> None:
    recipe = write(BOTH)
    tree = {**state_dict(), "ids": np.arange(5)}
    plan = sg.plan(recipe, tree)
    out, kept = plan.apply(tree), plan.remainder(tree)
    assert set(kept) == {"ids"}
    backwards = sg.plan(recipe.reverse(), out)
    assert sg.equal(dict(backwards.apply(out, remainder=kept)), tree)
    assert "ids" not in backwards.apply(out, remainder=False)
    with pytest.raises(sg.StructureError) as error:
        backwards.apply(out)
    assert str(error.value).startswith(
        "apply: what matches 'ids' was dropped on the way here, if there was any\n  hint: give the remainder"
    )
    with pytest.raises(sg.StructureError, match="the remainder holds a leaf that was not dropped at 'other'"):
        backwards.apply(out, remainder={"other": grid(1)})


def test_a_recipe_knows_its_two_sides(write: Any) -> None:
    recipe = write(BOTH)
    assert (recipe.source, recipe.target) == ("torch", "linen")
    assert (recipe.reverse().source, recipe.reverse().target) == ("linen", "torch")
    assert recipe.reverse().reverse() == recipe and "backwards" in repr(recipe.reverse())


@pytest.mark.parametrize(
    "op",
    [
        "{ op = 'reshape', shape = [-1] }",
        "{ op = 'take', indices = [1, 0] }",
        "{ op = 'cast', dtype = 'float16' }",
    ],
)
def test_an_op_that_does_not_say_what_it_undoes_cannot_be_read_backwards(op: str, write: Any) -> None:
    recipe = write(
        f"version = 1\nrules = [{{ from = 'b', to = 'b' }}, {{ from = 'w', to = 'x', ops = [{op}] }}]"
    )
    with pytest.raises(
        sg.RuleError, match=r"mine\.toml, rule 2: .* cannot be read backwards: .* does not say"
    ):
        recipe.reverse().rules_for(None)


# --- parameters ------------------------------------------------------------------------------------

PARAMS = """
version = 1
rules = [
  {{ from = "w", to = "{{q|k}}", ops = [{{ op = "split", sizes = ["{0}", "{0}"] }}] }},
  {{ from = "b", to = "b" }},
]

[params]
half = "n // 2"
double = "n * 2"
fixed = 2
deep = "text.n or n"
bad = "__import__('os')"
loop = "x"
x = "loop"
"""


@pytest.mark.parametrize(
    ("param", "config"),
    [
        ("$half", {"n": 4}),
        ("$fixed", None),
        ("$deep", {"text": {"n": 2}}),
        ("$deep", {"n": 2}),
        ("$double", {"n": 1}),
    ],
)
def test_parameters_come_from_the_config(param: str, config: Any, write: Any) -> None:
    plan = sg.plan(write(PARAMS.format(param)), TREE, config=config)
    assert {k: x.shape for k, x in plan.apply(TREE).items()} == {"q": (2, 2), "k": (2, 2), "b": (2,)}


@pytest.mark.parametrize(
    ("param", "config", "text"),
    [
        (
            "$half",
            None,
            "the parameter 'half' comes from the model's config, and there is none\n  hint: load a folder",
        ),
        ("$half", {}, "the config has no value for 'half' = 'n // 2'\n  hint: give config= with it"),
        ("$halv", {}, "the recipe has no parameter 'halv'\n  hint: nearest: 'half'"),
        (
            "$bad",
            {},
            "the parameter 'bad' = \"__import__('os')\" cannot be computed: only names, numbers, + - * //",
        ),
        ("$half", {"n": "four"}, "the parameter 'half' = 'n // 2' cannot be computed: unsupported operand"),
        ("$loop", {}, "the parameter 'loop' depends on itself: loop -> x -> loop"),
    ],
)
def test_a_parameter_that_is_not_there_names_file_and_rule(
    param: str, config: Any, text: str, write: Any
) -> None:
    with pytest.raises(sg.RuleError) as error:
        sg.plan(write(PARAMS.format(param)), TREE, config=config)
    head, _, rest = str(error.value).partition("mine.toml, rule 1: ")
    assert head.startswith("recipe: ") and rest.startswith(text)


def test_expect_may_be_a_parameter_and_nothing_else(write: Any) -> None:
    text = "version = 1\nparams = {{ n = 'layers' }}\nrules = [{{ from = '*', to = 'x/*', expect = {} }}]"
    assert sg.plan(write(text.format("'$n'")), TREE, config={"layers": 2}).apply(TREE)["x"].keys() == {
        "w",
        "b",
    }
    with pytest.raises(sg.RuleError, match="takes another number of leaves"):
        sg.plan(write(text.format("'$n'")), TREE, config={"layers": 3})
    with pytest.raises(sg.RuleError, match="expect is no number"):
        sg.plan(write(text.format("'n'")), TREE, config={"layers": 3})


# --- files that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = []", "is not valid: Object missing required field `version`"),
        ("version = 99\nrules = []", "is newer than this package\n  found     version 99"),
        ("version = 0\nrules = []", "is not valid: Expected `int` >= 1 in version"),
        ("version = \nrules = []", "is no TOML: Invalid value (at line 1, column 11)"),
        (
            "version = 1\nrules = [\n{ from = 'w',\nto = 'x' }]",
            "is no TOML: Invalid initial character for a key part (at line 3, column 14)"
            "\n  hint: what stands in braces stands on one line",
        ),
        (
            "version = 1\n[params]\nh = 'heads'\nrules = [{ from = 'w', to = 'x' }]",
            "is not valid: Expected `int | str`, got `array` in params[...]"
            "\n  hint: rules = [...] goes above [params]: what stands below a table's name is in that table",
        ),
        (
            "version = 1\nrules = [{ from = 'w' }]",
            "is not valid: Object missing required field `to` in rule 1",
        ),
        (
            "version = 1\nrules = [{ from = 'w', to = 'x' }, { from = 'w', to = 'x', opps = [] }]",
            "is not valid: Object contains unknown field `opps` in rule 2",
        ),
        (
            "version = 1\nrules = [{ from = 'w', to = 3 }]",
            "is not valid: Expected `str | array`, got `int` in rule 1, to",
        ),
        ("version = 1\nfrom = 'keras'\nrules = []", "is not valid: Invalid enum value 'keras' in from"),
    ],
)
def test_a_file_that_is_no_recipe_says_where(text: str, message: str, write: Any) -> None:
    with pytest.raises(sg.FileError) as error:
        write(text).rules_for(None)
    assert str(error.value).startswith("recipe: the recipe '") and str(error.value).endswith(
        f"mine.toml' {message}"
    )


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("'transpos'", "no op is called 'transpos'\n  hint: nearest: 'transpose'"),
        ("{ axis = 0 }", "an op is written as { op = \"stack\", axis = 0 }\n  found     {'axis': 0}"),
        ("{ op = 'stack', axes = 0 }", "stack does not take these parameters: "),
        ("{ op = 'split', sizes = 3 }", "split(3) has one size"),
        ("{ op = 'cast', dtype = 'f32' }", "no dtype is called 'f32'"),
    ],
)
def test_an_op_that_is_none_names_file_and_rule(op: str, message: str, write: Any) -> None:
    recipe = write(
        f"version = 1\nrules = [{{ from = 'b', to = 'b' }}, {{ from = 'w', to = 'x', ops = [{op}] }}]"
    )
    with pytest.raises(sg.RuleError) as error:
        recipe.rules_for(None)
    assert f"mine.toml, rule 2: {message}" in str(error.value)


def test_a_rule_that_does_not_fit_the_tree_names_file_and_rule(write: Any) -> None:
    recipe = write("version = 1\nrules = [{ from = 'w', to = 'w' }, { from = 'nope', to = 'b' }]")
    with pytest.raises(sg.RuleError) as error:
        sg.plan(recipe, TREE)
    assert [problem.message.rpartition("mine.toml, ")[2] for problem in error.value.problems] == [
        "rule 2: 'nope' matches none of 2 leaves",
        "no rule takes a leaf",
    ]


def test_a_recipe_knows_every_op_before_anything_else_is_used() -> None:
    code = "import surgery as sg; print(len(sg.recipe('hf/bert').rules_for(None)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("8\n", "")


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(sg.FileError) as error:
        sg.recipe("hf/bertt")
    assert str(error.value) == "recipe: no recipe is called 'hf/bertt'\n  hint: nearest: 'hf/bert'"
    with pytest.raises(sg.FileError, match="known: hf/bert"):
        sg.recipe("zzz")
    with pytest.raises(sg.FileError, match=r"the recipe 'no\.toml' cannot be read: .*No such file"):
        sg.recipe("no.toml")


def test_a_recipe_may_include_others_and_never_itself(write: Any, tmp_path: Path) -> None:
    write("version = 1\nparams = { n = 2 }\nrules = [{ from = 'b', to = 'c' }]", "other.toml")
    outer = write(
        f"version = 1\ninclude = ['{tmp_path / 'other.toml'}']\nrules = [{{ from = 'w', to = 'x' }}]"
    )
    assert set(sg.plan(outer, TREE).apply(TREE)) == {"x", "c"}
    loop = write(f"version = 1\ninclude = ['{tmp_path / 'loop.toml'}']\nrules = []", "loop.toml")
    with pytest.raises(sg.FileError, match="includes itself through"):
        loop.rules_for(None)


def test_every_recipe_of_the_package_parses_and_reads_in_both_directions() -> None:
    assert sg.recipes()
    for recipe in sg.recipes():
        assert recipe.title and recipe.rules_for({}) and recipe.reverse().rules_for({})
