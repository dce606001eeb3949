"""Every dtype, bit for bit, between numpy, torch and a safetensors file."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

import surgery as sg

# torch's name, numpy's (ml_dtypes'), and an integer type of the same width
DTYPES = [
    ("bool", np.bool_, np.uint8),
    ("uint8", np.uint8, np.uint8),
    ("int8", np.int8, np.uint8),
    ("uint16", np.uint16, np.uint16),
    ("int16", np.int16, np.uint16),
    ("uint32", np.uint32, np.uint32),
    ("int32", np.int32, np.uint32),
    ("uint64", np.uint64, np.uint64),
    ("int64", np.int64, np.uint64),
    ("float16", np.float16, np.uint16),
    ("bfloat16", ml_dtypes.bfloat16, np.uint16),
    ("float32", np.float32, np.uint32),
    ("float64", np.float64, np.uint64),
    ("complex64", np.complex64, np.uint64),
    ("float8_e4m3fn", ml_dtypes.float8_e4m3fn, np.uint8),
    ("float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, np.uint8),
    ("float8_e5m2", ml_dtypes.float8_e5m2, np.uint8),
    ("float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, np.uint8),
    ("float8_e8m0fnu", ml_dtypes.float8_e8m0fnu, np.uint8),
]
SHAPES = [(), (0,), (3, 0, 2), (1,), (5,), (2, 3), (2, 3, 4, 5)]
EVERY_DTYPE = pytest.mark.parametrize(("name", "scalar", "bits"), DTYPES, ids=[row[0] for row in DTYPES])


def bit_patterns(scalar: type, bits: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a dtype with all kinds of bits in it: NaN payloads, infinities, -0.0."""
    rng = np.random.default_rng(len(shape))
    size = int(np.prod(shape))
    if scalar is np.bool_:
        return rng.integers(0, 2, size).astype(np.bool_).reshape(shape)
    raw = rng.integers(0, np.iinfo(bits).max, size, dtype=bits, endpoint=True)
    special = np.array([0, 1, np.iinfo(bits).max, 1 << (np.iinfo(bits).bits - 1)], bits)
    raw[: min(size, 4)] = special[: min(size, 4)]
    return raw.view(scalar).reshape(shape)


@EVERY_DTYPE
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_2c_46_numpy_to_torch_and_back_is_bit_exact(
    name: str, scalar: type, bits: type, shape: tuple[int, ...]
) -> None:
    array = bit_patterns(scalar, bits, shape)
    tensor = sg.realize({"x": array}, "torch")["x"]
    assert tensor.dtype is getattr(torch, name) and tuple(tensor.shape) == shape
    back = sg.realize({"x": tensor}, "numpy")["x"]
    assert back.dtype == array.dtype and back.shape == shape
    assert back.tobytes() == array.tobytes()


@EVERY_DTYPE
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_2a_15_torch_to_safetensors_and_back_is_bit_exact(
    name: str, scalar: type, bits: type, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = bit_patterns(scalar, bits, shape)
    tensor = sg.realize({"x": array}, "torch")["x"]
    sg.save({"x": tensor}, tmp_path / "x.safetensors")
    tree = sg.load(tmp_path / "x.safetensors")
    assert sg.spec(tree)["x"] == sg.spec({"x": tensor})["x"]
    assert np.asarray(tree["x"]).tobytes() == array.tobytes()
    again = sg.realize(tree, "torch")["x"]
    assert again.dtype is tensor.dtype and tuple(again.shape) == shape
    assert sg.equal({"x": again}, {"x": tensor})


@EVERY_DTYPE
def test_2a_15_torch_files_hold_every_dtype(name: str, scalar: type, bits: type, tmp_path: Path) -> None:
    tree = sg.realize({"x": bit_patterns(scalar, bits, (2, 3)), "y": bit_patterns(scalar, bits, ())}, "torch")
    sg.save(tree, tmp_path / "x.pt")
    assert sg.equal(sg.load(tmp_path / "x.pt"), tree)


@EVERY_DTYPE
def test_a_slice_of_a_lazy_leaf_is_bit_exact(name: str, scalar: type, bits: type, tmp_path: Path) -> None:
    array = bit_patterns(scalar, bits, (4, 6))
    sg.save({"x": array}, tmp_path / "x.safetensors")
    halves = sg.transform(sg.load(tmp_path / "x.safetensors"), [("x", "{a|b}", sg.ops.split(axis=1))])
    assert np.asarray(halves["b"]).tobytes() == np.ascontiguousarray(array[:, 3:]).tobytes()


def test_complex128_crosses_between_numpy_and_torch_and_is_refused_by_safetensors(tmp_path: Path) -> None:
    array = np.array([1 + 2j, complex("nan")], np.complex128)
    tensor = sg.realize({"x": array}, "torch")["x"]
    assert tensor.dtype is torch.complex128
    assert sg.realize({"x": tensor}, "numpy")["x"].tobytes() == array.tobytes()
    with pytest.raises(sg.FileError, match="safetensors cannot hold this dtype at 'x'"):
        sg.save({"x": tensor}, tmp_path / "x.safetensors")


def test_a_conjugate_view_is_not_the_tensor_that_it_is_a_view_of(tmp_path: Path) -> None:
    """Lazily conjugated and negated views share storage, offset and strides with the original."""
    x = torch.tensor([1 + 2j, 3 - 4j])
    tree = {"x": x, "conj": x.conj(), "imag": x.imag, "neg": x.conj().imag}
    assert all(spec.alias is None for spec in sg.flatten(sg.spec(tree)).values())
    sg.save(tree, tmp_path / "x.safetensors")
    again = sg.realize(sg.load(tmp_path / "x.safetensors"), "torch")
    assert torch.equal(again["conj"], torch.tensor([1 - 2j, 3 + 4j]))
    assert torch.equal(again["neg"], torch.tensor([-2.0, 4.0]))
    sg.save(tree, tmp_path / "x.pt")
    assert sg.equal(sg.load(tmp_path / "x.pt"), tree)


def test_2c_47_a_read_only_array_is_copied_before_torch_could_write_to_it() -> None:
    """Arrays of jax are read-only; torch would warn and then write into them."""
    array = np.arange(3.0)
    array.flags.writeable = False
    tensor = sg.realize({"x": array}, "torch")["x"]
    tensor.add_(1)
    assert array.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "make",
    [lambda: np.arange(6.0).reshape(2, 3).T, lambda: np.arange(6.0)[::-1], lambda: np.arange(6.0)[::2]],
)
def test_arrays_that_are_not_in_c_order_cross_with_the_right_values(make) -> None:
    array = make()
    assert np.array_equal(sg.realize({"x": array}, "torch")["x"].numpy(), array)


def test_big_endian_arrays_cross_with_the_right_values(tmp_path: Path) -> None:
    array = np.arange(4, dtype=">f4")
    assert np.array_equal(sg.realize({"x": array}, "torch")["x"].numpy(), array)
    sg.save({"x": array}, tmp_path / "x.safetensors")
    assert np.asarray(sg.load(tmp_path / "x.safetensors")["x"]).tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:ComplexHalf")
def test_2a_15_dtypes_that_numpy_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor, name in [(quantized, "qint8"), (torch.ones(2, dtype=torch.complex32), "complex32")]:
        assert name in str(sg.spec({"x": tensor})["x"])
        with pytest.raises(sg.SpecError, match=f"no dtype is called '{name}'"):
            sg.realize({"x": tensor}, "numpy")
        with pytest.raises(sg.FileError, match="safetensors cannot hold this dtype at 'x'"):
            sg.save({"x": tensor}, tmp_path / "x.safetensors")


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_torch_files_keep_what_only_torch_has(tmp_path: Path) -> None:
    tree = {"half": torch.ones(2, dtype=torch.complex32), "x": torch.ones(2)}
    sg.save(tree, tmp_path / "x.pt")
    again = sg.load(tmp_path / "x.pt")
    assert again["half"].dtype is torch.complex32
    assert torch.equal(torch.view_as_real(again["half"]), torch.view_as_real(tree["half"]))


def test_a_sparse_tensor_is_refused_where_it_cannot_be_held(tmp_path: Path) -> None:
    tree = {"x": torch.eye(3).to_sparse()}
    with pytest.raises(sg.SurgeryError, match="sparse"):
        sg.save(tree, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(sg.SpecError, match="sparse"):
        sg.realize(tree, "numpy")
    sg.save(tree, tmp_path / "x.pt")
    assert torch.equal(sg.load(tmp_path / "x.pt")["x"].to_dense(), torch.eye(3))


def test_packed_float4_is_unpacked_with_the_low_half_first() -> None:
    packed = torch.tensor([[0x21, 0x43]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert str(sg.spec({"x": packed})["x"]) == "f4e2m1fn[1,4]"
    assert sg.realize({"x": packed}, "numpy")["x"].astype(np.float32).tolist() == [[0.5, 1.0, 1.5, 2.0]]


def test_the_bytes_of_a_file_of_every_dtype_are_those_of_the_reference_implementation(tmp_path: Path) -> None:
    tree = {f"{name}.x": bit_patterns(scalar, bits, (2, 3)) for name, scalar, bits in DTYPES}
    tensors = sg.realize(tree, "torch")
    sg.save(tensors, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == safetensors.torch.save(tensors, {"format": "pt"})
