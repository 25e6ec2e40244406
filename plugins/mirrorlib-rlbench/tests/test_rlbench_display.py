"""What is told of displays, of what RLBench imports, and of versions."""

from __future__ import annotations

import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mirrorlib_rlbench import installation, plugin


def test_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("DISPLAY", raising=False)
        if value is not None:
            monkeypatch.setenv("DISPLAY", value)
        told = str(installation.check_display())
        assert told.startswith("DISPLAY is not set") and "\n" not in told
        assert "`sudo apt-get install xvfb`" in told and "`xvfb-run -a`" in told
        assert "`xvfb-run -a vglrun -d egl0`" in told
        assert "nvidia-xconfig" in told and "`export DISPLAY=:99`" in told


@pytest.mark.parametrize("abstract", [False, True])
def test_a_display_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool
) -> None:
    place = tmp_path / "x"
    place.mkdir()
    monkeypatch.setattr(installation, "SOCKETS", str(place))
    for display in (":7", ":7.1", "unix:7"):
        monkeypatch.setenv("DISPLAY", display)
        told = str(installation.check_display())
        assert told.startswith(f"DISPLAY={display}, but no X server answers there; run ")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{place}/X7" if abstract else f"{place}/X7")
        server.listen()
        for display, works in ((":7", True), (":7.1", True), (":8", False), ("far:10.0", True)):
            monkeypatch.setenv("DISPLAY", display)
            assert (installation.check_display() is None) == works
    monkeypatch.setenv("DISPLAY", ":7")
    assert installation.check_display() is not None


@pytest.mark.parametrize(
    ("start", "there", "works"),
    [("import gymnasium", False, False), ("import gymnasium", True, True), ("", False, True)],
)
def test_what_rlbench_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, there: bool, works: bool
) -> None:
    (tmp_path / "environment.py").touch()
    (tmp_path / "action_modes").mkdir()
    (tmp_path / "__init__.py").write_text(start)

    def find_spec(name: str) -> Any:
        return object() if there else None

    monkeypatch.setattr(installation, "_folders", lambda package: [tmp_path])
    monkeypatch.setattr(installation, "_version", lambda name: None)
    monkeypatch.setattr(installation, "find_spec", find_spec)
    problem = installation.check_rlbench()
    if works:
        assert problem is None
    else:
        told = "it imports gymnasium, which is not installed; run `pip install gymnasium`"
        assert problem == told


def test_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "rlbench":
            return "1.2.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation, "version", version)
    names = [check.name for check in plugin.mirrorlib_checks()]
    assert names[:3] == ["CoppeliaSim (4.1 is needed)", "PyRep", "RLBench 1.2.0"]
