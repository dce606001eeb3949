"""The recipe `hf/bert` against what the Flax side of transformers said, bit for bit, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import surgery as sg

DATA = Path(__file__).parents[1] / "data" / "hf"
EACH = pytest.mark.parametrize("name", ["bert_cls", "bert_mlm"])


def facts(name: str) -> dict[str, Any]:
    """Return what is known of a model: its config, its ties, and the map that transformers used."""
    found: dict[str, Any] = json.loads((DATA / name / "config.json").read_text("utf-8"))
    return found


def torch_side(name: str) -> Any:
    """Return the state_dict of transformers, its tied tensors tied, as they are in the module."""
    tree = sg.realize(sg.load(DATA / name / "torch.safetensors"), "torch")
    for kept, other in facts(name)["tied"]:
        tree[other] = tree[kept]
    return tree


def flax_side(name: str) -> dict[str, Any]:
    """Return the parameters that transformers made of them, by their names joined with slashes."""
    return sg.realize(sg.load(DATA / name / "flax.safetensors"), "numpy")


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees hold the same names, dtypes, shapes and bytes, whatever their library."""
    x, y = (sg.flatten(sg.realize(tree, "numpy"), sep="/") for tree in (a, b))
    return x.keys() == y.keys() and all(
        (x[name].dtype, x[name].shape, x[name].tobytes()) == (y[name].dtype, y[name].shape, y[name].tobytes())
        for name in x
    )


@EACH
def test_torch_to_flax_equals_the_reference_bit_for_bit(name: str) -> None:
    variables = sg.convert(torch_side(name), "linen", recipe="hf/bert")
    assert list(variables) == ["params"] and all(isinstance(x, jax.Array) for x in jax.tree.leaves(variables))
    assert same_bits(variables["params"], flax_side(name))


@EACH
def test_flax_to_torch_gives_all_tensors_back_bit_for_bit(name: str) -> None:
    source = torch_side(name)
    variables = sg.convert(source, "linen", recipe="hf/bert")
    back = sg.convert(variables, "torch", recipe="hf/bert", remainder=False)
    assert all(type(x) is torch.Tensor for x in back.values())
    assert same_bits(back, source)
    assert {n for n, s in sg.spec(back).items() if s.alias} == {
        n for pair in facts(name)["tied"] for n in pair
    }


@EACH
def test_the_parameters_of_the_reference_itself_go_back_to_torch(name: str) -> None:
    nested = {"params": sg.unflatten({tuple(path): x for path, x in sg.flatten(flax_side(name)).items()})}
    back = sg.convert(nested, "torch", recipe="hf/bert", remainder=False)
    assert same_bits(back, torch_side(name))


@EACH
def test_the_plan_inverted_and_the_recipe_reversed_agree(name: str) -> None:
    source = torch_side(name)
    plan = sg.plan(sg.recipe("hf/bert"), source)
    made = plan.apply(source)
    reverse = sg.plan(sg.recipe("hf/bert").reverse(), made).apply(made, remainder=False)
    assert same_bits(plan.inverse().apply(made), reverse)


@EACH
def test_every_leaf_comes_from_where_the_reference_took_it(name: str) -> None:
    source = torch_side(name)
    report = sg.plan(sg.recipe("hf/bert"), source).report
    for path, (origin, _axes) in facts(name)["map"].items():
        rows = [row for row in report.rows if row.path == ("params", *path.split("/"))]
        assert len(rows) == 1 and origin in str(
            sg.plan(sg.recipe("hf/bert"), source).explain(f"params/{path}")
        )


@EACH
def test_a_lazy_checkpoint_is_planned_without_reading_it_and_streamed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "torch.safetensors"
    file.write_bytes((DATA / name / "torch.safetensors").read_bytes())
    source = sg.load(file)
    lazy = sg.convert(source, "linen", recipe="hf/bert", lazy=True)
    assert all(type(leaf).__name__ == "Lazy" for leaf in sg.flatten(lazy).values())
    sg.save(lazy, tmp_path / "flax.msgpack")
    assert same_bits(sg.load(tmp_path / "flax.msgpack")["params"], flax_side(name))


@EACH
def test_2a_19_square_kernels_are_transposed_as_all_others_are(name: str) -> None:
    source = torch_side(name)
    params = sg.convert(source, "linen", recipe="hf/bert")["params"]["bert"]["encoder"]["layer"]["0"]
    weight = source["bert.encoder.layer.0.attention.self.query.weight"]
    kernel = np.asarray(params["attention"]["self"]["query"]["kernel"])
    assert weight.shape[0] == weight.shape[1] and not np.array_equal(kernel, weight.numpy())
    assert np.array_equal(kernel, weight.numpy().T)


def test_2a_18_the_base_model_has_the_same_names_without_its_prefix() -> None:
    source = torch_side("bert_cls")
    base = sg.extract(source, "bert")
    params = sg.convert(base, "linen", recipe="hf/bert")["params"]
    assert same_bits(params, sg.extract(flax_side("bert_cls"), "bert"))
    back = sg.convert({"params": params}, "torch", recipe="hf/bert", remainder=False)
    assert same_bits(back, base)


def test_2a_18_gamma_and_beta_are_read_where_a_layer_norm_had_them_and_nowhere_else() -> None:
    source = torch_side("bert_cls")
    old = sg.rename(source, [("{p:**}.LayerNorm.{weight|bias}", "{p}.LayerNorm.{gamma|beta}")])
    assert "bert.embeddings.LayerNorm.gamma" in old
    assert same_bits(sg.convert(old, "linen", recipe="hf/bert")["params"], flax_side("bert_cls"))
    old["bert.encoder.layer.0.gamma"] = torch.ones(24)  # a layer scale: no part of this family
    with pytest.raises(sg.RuleError, match=r"'bert\.encoder\.layer\.0\.gamma'"):
        sg.convert(old, "linen", recipe="hf/bert")


def test_a_decoder_that_is_not_tied_is_refused_and_not_dropped() -> None:
    """The Flax model has no place for it: dropping it would lose a trained matrix without a word."""
    source = torch_side("bert_mlm")
    source["cls.predictions.decoder.weight"] = source["cls.predictions.decoder.weight"] + 1
    with pytest.raises(sg.SurgeryError, match=r"cls\.predictions\.decoder\.weight"):
        sg.convert(source, "linen", recipe="hf/bert")


def test_the_converted_classifier_computes_what_the_reference_did() -> None:
    from bert_flax import Bert, BertConfig

    known = np.load(DATA / "bert_cls" / "io.npz")
    inputs = {name[3:]: jnp.asarray(known[name]) for name in known if name.startswith("in.")}
    params = sg.convert(torch_side("bert_cls"), "linen", recipe="hf/bert")["params"]
    model = Bert(BertConfig.of(facts("bert_cls")["config"]))
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", jnp.ones_like(ids))
    types = inputs.get("token_type_ids", jnp.zeros_like(ids))
    _, pooled = model.apply({"params": params["bert"]}, ids, mask, types)
    head = params["classifier"]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], known["out.logits"], atol=1e-6)
