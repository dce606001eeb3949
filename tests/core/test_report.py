"""Reports: data with a text, a JSON and a notebook face, folded only where all else is equal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery as sg
from surgery.extend import Report, Row


def layers(numbers: list[int], **about: Any) -> list[Row]:
    return [Row("loaded", ("h", str(n), "w"), after="f32[2]", **about) for n in numbers]


def lines(rows: list[Row]) -> list[str]:
    return [line.strip() for line in str(Report("graft", rows)).splitlines()[1:]]


# --- folding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([0], "h/0/w"),
        ([0, 1, 2], "h/{0..2}/w"),
        ([*range(12)], "h/{0..11}/w"),
        ([2, 0, 1], "h/{0..2}/w"),
        ([0, 1, 3, 7, 8], "h/{0..1,3,7..8}/w"),
        ([0, 2], "h/{0,2}/w"),
    ],
)
def test_rows_that_differ_in_a_number_only_are_one_line(numbers: list[int], text: str) -> None:
    assert lines(layers(numbers)) == [f"loaded  {text}  f32[2]"]


def test_rows_that_differ_in_anything_else_are_not_folded() -> None:
    rows = layers([0, 1])
    for other in (
        Row("missing", ("h", "2", "w"), after="f32[2]"),
        Row("loaded", ("h", "2", "w"), after="f32[3]"),
        Row("loaded", ("h", "2", "w"), before="f16[2]", after="f32[2]"),
        Row("loaded", ("h", "2", "w"), after="f32[2]", note="kept"),
        Row("loaded", ("h", "2", "v"), after="f32[2]"),
        Row("loaded", ("h", 2, "w"), after="f32[2]"),
    ):
        assert len(lines([*rows, other])) == 2


def test_only_true_products_of_two_numbers_are_folded() -> None:
    def rows(pairs: list[tuple[int, int]]) -> list[Row]:
        return [Row("loaded", (f"l{a}", f"w{b}")) for a, b in pairs]

    assert lines(rows([(0, 0), (0, 1), (1, 0), (1, 1)])) == ["loaded  l{0..1}/w{0..1}"]
    assert lines(rows([(0, 0), (0, 1), (1, 0)])) == ["loaded  l0/w{0..1}", "loaded  l1/w0"]


def test_numbers_with_leading_zeros_are_names() -> None:
    assert lines([Row("loaded", (f"block{n:02}",)) for n in range(3)]) == [
        "loaded  block00",
        "loaded  block01",
        "loaded  block02",
    ]


def test_the_source_of_a_row_is_folded_with_it_where_its_numbers_go_along() -> None:
    rows = [Row("renamed", ("layers", str(n)), source=("h", str(n))) for n in range(3)]
    assert lines(rows) == ["renamed  layers/{0..2}  <- h/{0..2}"]
    shifted = [Row("renamed", ("layers", str(n)), source=("h", str(n + 1))) for n in range(3)]
    assert all("{" not in line.split("<-")[1] for line in lines(shifted))
    assert [line.split("<-")[1].strip() for line in lines(shifted)] == ["h/1", "h/2", "h/3"]


@given(
    st.sets(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["f32[2]", "f16[2]"])), min_size=1
    )
)
def test_folding_loses_no_row_and_invents_none(drawn: set[Any]) -> None:
    one_each = {(a, b): spec for a, b, spec in sorted(drawn)}
    rows = [Row("x", ("l", str(a), f"w{b}"), after=spec) for (a, b), spec in one_each.items()]
    found: dict[tuple[int, int], str] = {}
    for line in lines(rows):
        _, path, spec = line.split()
        _, first, second = path.split("/")
        for a in numbers_in(first):
            for b in numbers_in(second[1:]):
                assert (a, b) not in found
                found[a, b] = spec
    assert found == one_each


def numbers_in(text: str) -> list[int]:
    """Read `{0..2,5}` back."""
    out: list[int] = []
    for piece in text.strip("{}").split(","):
        low, _, high = piece.partition("..")
        out += range(int(low), int(high or low) + 1)
    return out


# --- faces -----------------------------------------------------------------------------------------


def test_json_keeps_every_row() -> None:
    report = Report(
        "graft", layers([0, 1], source=("a", "b")), notes=["a note"], statuses=["loaded", "missing"]
    )
    data = json.loads(report.to_json())
    assert data["schema"] == 1 and data["verb"] == "graft" and data["notes"] == ["a note"]
    assert data["counts"] == {"loaded": 2, "missing": 0}
    assert data["rows"][1] == {
        **{"status": "loaded", "path": "h/1/w", "before": "", "after": "f32[2]", "note": "", "source": "a/b"}
    }


def test_the_notebook_face_escapes_and_ends() -> None:
    rows = [Row("loaded", (f"<b>{'x' * n}",)) for n in range(600)]
    page = Report("graft", rows)._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page and "... and 100 more rows" in page


def test_a_report_is_a_falsy_or_truthy_sequence_of_rows() -> None:
    assert not Report("diff") and Report("diff", layers([0]))
    report = Report("graft", layers([0, 1, 2]))
    assert len(report) == 3 and [row.path[1] for row in report] == ["0", "1", "2"]
    assert report.counts == {"loaded": 3} and len(report.with_status("missing")) == 0


def test_columns_are_aligned_and_empty_ones_left_out() -> None:
    report = Report("graft", [Row("loaded", ("a",), after="f32[2]"), Row("missing", ("long",), note="kept")])
    assert str(report) == "graft: 1 loaded, 1 missing\n  loaded   a     f32[2]\n  missing  long          kept"


def test_a_joined_tree_is_reported_with_dots() -> None:
    a, b = {"enc.0.weight": np.ones(2)}, {"enc.0.weight": np.ones(3)}
    assert "enc.0.weight" in str(sg.diff(a, b)) and '"enc.0.weight"' in sg.diff(a, b).to_json()


# --- raise_if --------------------------------------------------------------------------------------


def report() -> sg.Report:
    tree = {"enc": {"w": np.ones(2), "b": np.ones(1)}, "head": {"w": np.ones(3)}}
    return sg.graft(tree, {"enc": {"w": np.ones(2)}}, missing="keep-target")[1]


def test_raise_if_raises_for_a_status_everywhere_or_at_places() -> None:
    with pytest.raises(sg.StructureError) as error:
        report().raise_if(missing=True)
    assert str(error.value) == (
        "graft: 2 problems (3 rows)\n  missing at 'enc/b'\n    found     f64[1]\n"
        "  missing at 'head/w'\n    found     f64[3]"
    )
    with pytest.raises(sg.StructureError, match="graft: missing at 'enc/b'"):
        report().raise_if(missing="enc/**")
    report().raise_if(missing="nowhere/**", mismatched=True, unexpected=True)
    report().raise_if(missing=False)


def test_raise_if_knows_which_statuses_there_are() -> None:
    with pytest.raises(TypeError) as error:
        report().raise_if(mising=True)
    assert str(error.value) == (
        "a graft report has no 'mising'; it has loaded, cast, tied, missing, unexpected, mismatched"
    )


# --- the forgotten pair ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda r: r["enc"],
        lambda r: np.asarray(r),
        lambda r: np.ones(2) * r,
        lambda r: r * 2,
        lambda r: r.items(),
        lambda r: r.shape,
        lambda r: float(r),
    ],
)
def test_a_report_used_as_a_tree_or_an_array_says_what_was_forgotten(use: Any) -> None:
    with pytest.raises(sg.StructureError) as error:
        use(report())
    assert str(error.value) == (
        "a graft report is used as if it were a tree or an array\n"
        "  hint: graft returns a pair: `tree, report = graft(...)`"
    )


def test_a_pair_used_as_a_tree_says_the_same() -> None:
    pair = sg.graft({"a": np.ones(1)}, {"a": np.ones(1)})
    with pytest.raises(sg.StructureError, match=r"a report stands where a leaf is expected at '\[1\]'"):
        sg.flatten(pair)
