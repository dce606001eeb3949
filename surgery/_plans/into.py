"""The results of a plan in the places of another tree."""

from __future__ import annotations

from surgery._errors import SHOWN, Problem, StructureError, SurgeryError, nearest, problem_at, raise_problems
from surgery._paths.path import text_of
from surgery._trees.flat import Flat
from surgery._trees.modules import editable
from surgery._trees.place import place_like
from surgery._types import Tree
from surgery._verbs.tree import walk


def put_into(flat: Flat, into: Tree) -> Flat:
    """Put results into the places of another tree, where its leaves live."""
    goal = walk(editable(into, "apply"))
    names = {path: text_of(path, goal.structure.sep) for path in (*goal, *flat)}
    known = [names[path] for path in goal]
    problems: list[Problem] = []
    leaves = dict(goal)
    for path, leaf in flat.items():
        if path not in goal:
            hint = nearest(names[path], known) if len(problems) < SHOWN else None
            text = "a result has no place in `into`"
            problems.append(Problem(text, names[path], hint=hint, error=StructureError))
            continue
        try:
            leaves[path] = place_like(leaf, goal[path])
        except SurgeryError as error:
            problems.append(problem_at(names[path], error))
    raise_problems("apply", problems, of=f"{len(goal)} leaves")
    return Flat(leaves, structure=goal.structure)
