"""oneDNN's matmul is taken for our own products alone, where asked for and where it is exact."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mirrorlib_objectives import blocks, matmul
from mirrorlib_objectives.infonce import InfoNCE
from mirrorlib_objectives.matmul import SMALLEST, fast_matmul, is_exact

pytestmark = pytest.mark.skipif(matmul._backend() is None, reason="torch without oneDNN's flag")


def flag() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(matmul, "ENABLED", True)
    monkeypatch.setattr(matmul, "is_exact", lambda: True)


@pytest.fixture
def fresh_trial(monkeypatch):
    monkeypatch.setattr(matmul, "ENABLED", True)
    is_exact.cache_clear()
    yield
    is_exact.cache_clear()


@pytest.fixture(params=["none", "ieee"])
def before(request) -> Iterator[str]:
    """What the user has set; `none` is nothing."""
    found = flag()
    torch.backends.mkldnn.matmul.fp32_precision = request.param
    yield request.param
    torch.backends.mkldnn.matmul.fp32_precision = found


def within(before: str) -> str:
    """The flag within a block: what a user has set stays."""
    return "bf16" if before == "none" else before


def test_flag_is_put_back(asked, before):
    with fast_matmul(SMALLEST):
        assert flag() == within(before)
        with fast_matmul(SMALLEST):
            assert flag() == within(before)
        assert flag() == within(before)
    assert flag() == before


def test_flag_is_put_back_after_an_exception(asked, before):
    with pytest.raises(KeyError), fast_matmul(SMALLEST), fast_matmul(SMALLEST):
        raise KeyError
    assert flag() == before
    with fast_matmul(SMALLEST):
        assert flag() == within(before)
    assert flag() == before


def test_last_of_several_threads_puts_the_flag_back(asked, before):
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fast_matmul(SMALLEST):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with fast_matmul(SMALLEST):
        thread.start()
        assert inside.wait(20)
    assert flag() == within(before)
    leave.set()
    thread.join()
    assert flag() == before


def test_many_threads(asked, before):
    seen = []

    def work() -> None:
        for _ in range(200):
            with fast_matmul(SMALLEST):
                seen.append(flag())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [within(before)] * 1600 and flag() == before


def test_small_products_leave_the_default(asked, before):
    with fast_matmul(SMALLEST - 1):
        assert flag() == before
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    assert InfoNCE()(rows, rows).value.isfinite() and flag() == before


def test_products_on_a_gpu_leave_the_default(monkeypatch, before):
    monkeypatch.setattr(matmul, "is_exact", lambda: pytest.fail("tried for a GPU"))
    with blocks.exact_products(torch.device("cuda"), SMALLEST):
        assert flag() == before


def test_infonce_asks_for_it(monkeypatch, asked, before):
    """Forward and backward, and leaves the flag as it was."""
    monkeypatch.setattr(matmul, "SMALLEST", 1)
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with Products() as products:
        InfoNCE()(rows, rows.detach().flip(0)).value.backward()
    expected = {within(before)}
    assert products.flags == {"mm": expected, "addmm_": expected} and flag() == before


class Products(TorchDispatchMode):
    """The flag during products."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm_"):
            self.flags.setdefault(name, set()).add(flag())
        return func(*args, **(kwargs or {}))


class Rounding(TorchDispatchMode):
    """Products of factors rounded to bfloat16, as CPUs with AMX compute them under the flag."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "mm":
            args = [x.bfloat16().float() for x in args]
        return func(*args, **(kwargs or {}))


@contextmanager
def rounding_flag() -> Iterator[None]:
    with Rounding():
        yield


def test_what_an_outer_flag_says_is_followed_again(asked):
    """The flag is left unset, not set to what it inherits."""
    outer = torch.backends.mkldnn
    found = outer.fp32_precision
    try:
        with fast_matmul(SMALLEST):
            pass
        for precision in ("tf32", "ieee"):
            outer.fp32_precision = precision
            assert flag() == precision
            with fast_matmul(SMALLEST):
                assert flag() == precision
    finally:
        outer.fp32_precision = found


@pytest.mark.parametrize("exact", [True, False])
def test_trial_asks_for_exact_products(monkeypatch, fresh_trial, exact):
    if not exact:
        monkeypatch.setattr(matmul, "_flag", rounding_flag)
    assert is_exact() is exact
    assert flag() == "none"


def test_trial_draws_no_random_numbers_of_others(fresh_trial):
    state = torch.get_rng_state()
    is_exact()
    assert torch.equal(torch.get_rng_state(), state)


def test_no_backend_leaves_the_default(monkeypatch, fresh_trial):
    monkeypatch.setattr(matmul, "_backend", lambda: None)
    with fast_matmul(SMALLEST):
        assert not is_exact()


@pytest.mark.parametrize(("asked", "flag"), [(None, "none"), ("0", "none"), ("1", "bf16")])
def test_the_environment_asks_for_it(asked, flag):
    code = (
        "import torch\n"
        "from mirrorlib_objectives import matmul\n"
        "matmul.is_exact = lambda: True\n"
        "with matmul.fast_matmul(matmul.SMALLEST):\n"
        "    print(torch.backends.mkldnn.matmul.fp32_precision)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MIRRORLIB_FAST_MATMUL"}
    environment |= {"MIRRORLIB_FAST_MATMUL": asked} if asked else {}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [flag]
