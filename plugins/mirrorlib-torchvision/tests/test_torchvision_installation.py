"""Whether torchvision matches torch, by the metadata of wheels made up for the test."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mirrorlib_torchvision import installation, plugin

UPGRADE = "run `pip install --upgrade torch torchvision`"
REINSTALL = "run `pip install --upgrade --force-reinstall torch torchvision`"


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose distributions are the only ones that the checks see."""

    def found(name: str) -> metadata.Distribution:
        for distribution in metadata.distributions(name=name, path=[str(tmp_path)]):
            return distribution
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation, "version", lambda name: found(name).version)
    monkeypatch.setattr(installation, "requires", lambda name: found(name).requires)
    return tmp_path


@pytest.mark.parametrize(
    ("torch", "torchvision", "requires", "problem", "cure"),
    [
        ("2.6.0", "0.21.0", ["numpy", "torch==2.6.0"], None, ""),
        ("2.6.0+cpu", "0.21.0+cpu", ["torch==2.6.0"], None, ""),
        ("2.15.0", "0.29.2", ["torch (>=2.14.0)", "torch==1 ; extra == 'old'"], None, ""),
        ("2.6.0", "0.21.0", [], None, ""),
        ("2.7.0.dev20250101", "0.22.0.dev1", ["torch>=2.7.0.dev1"], None, ""),
        ("2.7.1", "0.21.0", ["torch==2.6.0"],
         "torchvision 0.21.0 wants torch==2.6.0, not torch 2.7.1", UPGRADE),
        ("2.6.0+cpu", "0.20.0", ["torch==2.5.0"],
         "torchvision 0.20.0 wants torch==2.5.0, not torch 2.6.0+cpu", REINSTALL),
        ("2.6.0+cpu", "0.21.0", ["torch==2.6.0"],
         "torch 2.6.0+cpu and torchvision 0.21.0 are wheels of two kinds", REINSTALL),
        ("2.6.0+cu124", "0.21.0+cpu", ["torch==2.6.0"],
         "torch 2.6.0+cu124 and torchvision 0.21.0+cpu are wheels of two kinds", REINSTALL),
        ("2.6.0", None, [], "torchvision is not installed", UPGRADE),
        ("2.6.0+cpu", None, [], "torchvision is not installed", REINSTALL),
        (None, "0.21.0", [], "torch is not installed", UPGRADE),
    ],
)  # fmt: skip
def test_pairs(
    site: Path,
    torch: str | None,
    torchvision: str | None,
    requires: list[str],
    problem: str | None,
    cure: str,
) -> None:
    if torch is not None:
        install(site, "torch", torch)
    if torchvision is not None:
        install(site, "torchvision", torchvision, *requires)
    found = installation.check_versions()
    if problem is None:
        assert found is None
    else:
        assert found is not None and found.startswith(f"{problem}; {cure}, both in one command")


def test_a_torchvision_that_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(source)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = installation.check_import()
    assert problem is not None
    assert problem.startswith(
        f"torchvision does not import (operator torchvision::nms does not exist); {REINSTALL}"
    )
    (tmp_path / "torchvision.py").write_text("works = True")
    assert installation.check_import() is None
    del sys.modules["torchvision"]


def test_r3d_is_not_refused_for_it_and_the_light_check_imports_no_torch() -> None:
    light, real = plugin.mirrorlib_checks()
    names = {f"observer {component.name}" for component in plugin.mirrorlib_observers()}
    assert set(light.needed_by) == set(real.needed_by) == names - {"observer r3d"}
    assert (light.slow, real.slow) == (False, True)
    code = (
        "import sys\nfrom mirrorlib.plugins import resolve\n"
        f"resolve({light.run!r})()\nassert not {{'torch', 'torchvision'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
