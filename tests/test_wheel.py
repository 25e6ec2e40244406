"""The core and a stranger's plugin, as wheels in an environment of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = """
from mirrorlib import Component, hookimpl

@hookimpl
def mirrorlib_objectives():
    return [Component("tiny", build="stranger_plugin:build", config="stranger_plugin:Config",
                      summary="a stranger's objective")]
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stranger-plugin"
version = "3.2.1"
[project.entry-points.mirrorlib]
stranger = "stranger_plugin"
[tool.setuptools]
py-modules = ["stranger_plugin"]
"""


def run(*command: object, cwd: Path) -> str:
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def wheel_of(source: Path, folder: Path) -> Path:
    """Build without network, from a copy, so that no earlier build is taken up."""
    before = set(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    core, plugin = folder / "core", folder / "plugin"
    core.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, core)
    shutil.copytree(ROOT / "mirrorlib", core / "mirrorlib")
    for stray in ("tests", "plugins"):
        (core / stray).mkdir()
        (core / stray / "__init__.py").touch()
    plugin.mkdir()
    (plugin / "pyproject.toml").write_text(PROJECT)
    (plugin / "stranger_plugin.py").write_text(PLUGIN)
    return [wheel_of(core, folder), wheel_of(plugin, folder)]


def test_wheel_holds_the_package_and_nothing_else(wheels: list[Path]) -> None:
    names = set(zipfile.ZipFile(wheels[0]).namelist())
    written = {str(p.relative_to(ROOT)) for p in (ROOT / "mirrorlib").rglob("*.py")}
    assert written | {"mirrorlib/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"mirrorlib", "mirrorlib-0.1.0.dist-info"}


def test_an_installed_wheel_is_found(wheels: list[Path], tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, *wheels, cwd=tmp_path)
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    # What the core depends on, from this environment; its own .pth files are not followed.
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(ours)))

    where = run(python, "-I", "-c", "import mirrorlib; print(mirrorlib.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    rows = json.loads(run(environment / "bin" / "mirrorlib", "plugins", "--json", cwd=tmp_path))
    assert [row for row in rows if row["distribution"] == "stranger-plugin"] == [
        {
            "distribution": "stranger-plugin", "version": "3.2.1", "entry_point": "stranger",
            "status": "ok", "reason": "",
            "components": [
                {"kind": "objective", "name": "tiny", "summary": "a stranger's objective"}
            ],
        }
    ]  # fmt: skip
    shutil.rmtree(environment)
