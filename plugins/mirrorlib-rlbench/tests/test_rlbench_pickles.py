"""What a pickle may hold, against `pickle` itself; and what none of them ever runs."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mirrorlib.errors import UserError
from mirrorlib_rlbench.pickles import LARGEST, load_pickle
from mirrorlib_rlbench.standins import Array, Record, unpacked

PROTOCOLS = range(6)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "low_dim_obs.pkl"
    path.write_bytes(content)
    return path


def plain(value: Any) -> Any:
    """Arrays and records unpacked throughout."""
    if isinstance(value, Record):
        return {key: plain(part) for key, part in value.fields.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(part) for part in value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return unpacked(value)


def equal(a: Any, b: Any) -> bool:
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and all(map(equal, a, b)) and len(a) == len(b)
    if isinstance(b, np.ndarray):
        kinds = {(array.dtype.kind, array.dtype.itemsize, array.shape) for array in (a, b)}
        return len(kinds) == 1 and bool(np.array_equal(a, b))
    return type(a) is type(b) and a == b


NUMBERS = arrays.arrays(
    st.sampled_from(["f8", ">f4", "i8", "u1", "bool", "<u4"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    elements={"min_value": 0, "max_value": 100},
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | NUMBERS,
    lambda part: (
        st.lists(part, max_size=5)
        | st.lists(part, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=5), part, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
@example(value=np.asfortranarray(np.arange(6.0).reshape(2, 3)), protocol=2)
@example(value=np.asfortranarray(np.arange(6.0).reshape(2, 3)), protocol=5)
@example(value=list(np.random.RandomState(1).get_state()), protocol=3)
@example(value=[[np.zeros(3)] * 2, "a" * 300, b"", b"ab" * 200, 2**70, -(2**40)], protocol=2)
def test_plain_data_is_read_as_pickle_reads_it(tmp_path: Path, value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert equal(plain(load_pickle(written(tmp_path, content))), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_1_and_2_and_numbers_of_theirs(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([np.arange(3.0), np.float32(2.5), np.int64(7)], protocol)
    assert b"numpy._core." in content
    old = content
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        shorter = name.replace(b"_core", b"core")
        framed = [bytes([len(n)]) + n for n in (name, shorter)]
        old = old.replace(framed[0], framed[1]).replace(b"c" + name, b"c" + shorter)
    assert b"numpy._core." not in old and b"numpy.core." in old
    for text in (content, old):
        array, *numbers = plain(load_pickle(written(tmp_path, text)))
        np.testing.assert_array_equal(array, [0, 1, 2])
        assert numbers == [2.5, 7]


class Evil:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CALLS: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...]]] = {
    "system": (f"{os.name}.system", os.system, ("touch RAN",)),
    "eval": ("builtin", eval, ("open('RAN', 'w')",)),
    "exec": ("builtin", exec, ("open('RAN', 'w')",)),
    "open": ("io.open", open, ("RAN", "w")),
    "load": ("numpy.load", np.load, ("x.npy", None, True)),
    "getattr": ("getattr", getattr, ("text", "upper")),
    "zeros": ("zeros", np.zeros, (10**9,)),
}
WRAPS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda evil: evil,
    "nested": lambda evil: [{"a": (1, [evil])}],
    "array": lambda evil: np.array([1, evil], object),
    "structure": lambda evil: np.array([(1, evil)], [("a", int), ("b", object)]),
    "argument": lambda evil: Evil(np.dtype, evil),
    "late": lambda evil: [np.zeros(100)] * 50 + ["text" * 100, evil],
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_ever_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, wrap: str
) -> None:
    monkeypatch.chdir(tmp_path)
    named, function, arguments = CALLS[call]
    for protocol in PROTOCOLS:
        content = pickle.dumps(WRAPS[wrap](Evil(function, *arguments)), protocol)
        path = written(tmp_path, content)
        began = time.process_time()
        with pytest.raises(UserError) as caught:
            load_pickle(path)
        assert time.process_time() - began < 1
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: asks for ") and named in line
        assert not (tmp_path / "RAN").exists()


def text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


EMPTY_ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
EIGHT = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
DEEP = b")" + b"\x85" * 50_000
GIGA = 2**30


def shaped(shape: bytes, dtype: bytes = EIGHT, content: bytes = b"C\x00") -> bytes:
    """An array of a shape in a content that does not fit it."""
    return EMPTY_ARRAY + b"K\x00\x85C\x01b\x87R(K\x01" + shape + dtype + b"\x89" + content + b"tb."


BOMBS = {
    "memo": b"Nr\xff\xff\xff\x7f0.",  # a memo of two thousand million entries
    "memo that is not there": b"h\x07.",
    "bytes of 1 GB": b"\x8e" + struct.pack("<Q", GIGA) + b"x.",
    "bytearray of 1 GB": b"\x96" + struct.pack("<Q", GIGA) + b"x.",
    "text of 1 GB": b"\x8d" + struct.pack("<Q", GIGA) + b"x.",
    "text of all memory": b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "number of 1 GB": b"\x8b" + struct.pack("<i", GIGA) + b"x.",
    "frame of 1 GB": b"\x95" + struct.pack("<Q", GIGA),
    "array of 8 GB": shaped(b"J\x00\x00\x00\x40\x85"),
    "array reserved": EMPTY_ARRAY + b"J\x00\x00\x00\x40\x85C\x01b\x87R.",
    "array with surplus content": shaped(b"K\x01\x85", content=b"C\x10" + bytes(16)),
    "array of negative size": shaped(b"J\xff\xff\xff\xff\x85"),
    "array of many axes": shaped(b"(" + b"K\x00" * 100_000 + b"t"),
    "array of objects": shaped(b"K\x01\x85", EIGHT.replace(b"f8", b"O8")),
    "array of text": shaped(b"K\x01\x85", EIGHT.replace(b"f8", b"U9")),
    "array of a structure": shaped(
        b"K\x01\x85", EIGHT + b"(K\x03" + text("<") + text("f") + b"NNtb"
    ),
    "array of what is no type": shaped(b"K\x01\x85", b"N"),
    "ndarray called": name("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85R.",
    "ndarray made": name("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85\x81.",
    "attributes of a name": name("numpy", "dtype") + b"N}" + text("rebuild") + b"Ns\x86b.",
    "attributes of a list": b"]}" + text("append") + b"Nsb.",
    "extension": b"\x82\x01.",
    "persistent": b"Pos.system\n.",
    "buffer": b"\x97.",
    "set": b"\x8f.",
    "unfolding": b"](X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"\x94" + text("latin1") + b"\x94"
    + (name("_codecs", "encode") + b"h\x00h\x01\x86R") * 200 + b"e.",
    "encoding": name("_codecs", "encode") + text("a") + text("zlib") + b"\x86R.",
    "no end": b"]",
    "no mark": b"e.",
    "too few values": b"\x86.",
    "below the mark": b"N(\x85.",
    "two results": b"NN.",
    "key without value": b"}(" + text("a") + b"u.",
    "empty": b"",
    "picture": b"\x89PNG\r\n\x1a\n",
}  # fmt: skip
DEEP_ONES = {
    "deep key": b"}" + DEEP + b"Ns.",
    "deep name": DEEP + text("x") + b"\x93.",
    "deep shape": shaped(DEEP),
    "deep type": shaped(b"K\x01\x85", name("numpy", "dtype") + DEEP + b"\x85R"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_claims_are_refused_before_memory_is_taken(tmp_path: Path, bomb: str) -> None:
    path = written(tmp_path, BOMBS[bomb])
    tracemalloc.start(1)
    began = time.process_time()
    try:
        with pytest.raises(UserError) as caught:
            load_pickle(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10  # traced; a second without
    assert peak < 100 * 2**20
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ") and len(line) < len(str(path)) + 300
    assert bomb != "unfolding" or "unfolds to more than it holds" in line


@pytest.mark.parametrize("nest", DEEP_ONES)
def test_nesting_cannot_end_the_process(tmp_path: Path, nest: str) -> None:
    """Tuples in tuples are never hashed, compared or shown: of a million, Python dies."""
    path = written(tmp_path, DEEP_ONES[nest])
    began = time.process_time()
    with pytest.raises(UserError, match="a damaged pickle"):
        load_pickle(path)
    assert time.process_time() - began < 1


def test_a_file_of_one_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "low_dim_obs.pkl"
    with path.open("wb") as file:
        file.truncate(GIGA)
    began = time.process_time()
    with pytest.raises(UserError, match=f"{path}: {GIGA} bytes; .* over {LARGEST}"):
        load_pickle(path)
    assert time.process_time() - began < 0.5


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(UserError, match="not a file"):
        load_pickle(tmp_path)


def test_a_name_cannot_break_the_line(tmp_path: Path) -> None:
    module = "os\n\x1b[31m" + "x" * 500
    content = b"X" + struct.pack("<I", len(module)) + module.encode() + text("system") + b"\x93."
    with pytest.raises(UserError, match="asks for os") as caught:
        load_pickle(written(tmp_path, content))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_is_told_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes are changed or lost, there is a value or one line."""
    content = bytearray(pickle.dumps({"a": [np.arange(4.0), (1, 2.5)], "b": "text"}, 4))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path, bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        load_pickle(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and len(error.lines) == 1


def test_records_keep_their_attributes_apart(tmp_path: Path, rlbench_modules: None) -> None:
    """An array that stands in many places is one; attributes are never the class's."""
    shared = np.arange(7.0)
    made = [sys.modules["rlbench.backend.observation"].Observation() for _ in range(2)]
    for each in made:
        each.a = shared
    first, second = load_pickle(written(tmp_path, pickle.dumps(made)))
    assert first.kind == second.kind == "Observation"
    assert isinstance(first.fields["a"], Array) and first.fields["a"] is second.fields["a"]
    assert first.fields is not second.fields and not hasattr(Record, "a")
