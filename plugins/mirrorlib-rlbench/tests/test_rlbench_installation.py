"""What is told of installations of RLBench made up for the test. None of it is ever imported."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import pytest

from mirrorlib.plugins import resolve
from mirrorlib_rlbench import installation, plugin

IMPORTED = "raise SystemExit('imported, which needs the simulator')"


class Site:
    """A folder with packages and distributions; the only one that the checks see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def package(self, *files: str) -> None:
        for file in files:
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(IMPORTED)
        importlib.invalidate_caches()

    def distribution(self, name: str, version: str) -> None:
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    def version(name: str) -> str:
        for distribution in metadata.distributions(name=name, path=[str(tmp_path)]):
            return distribution.version
        raise metadata.PackageNotFoundError(name)

    def find_spec(name: str) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(tmp_path)])

    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setattr(installation, "find_spec", find_spec)
    return Site(tmp_path)


REAL_PYREP = ("pyrep/__init__.py", "pyrep/pyrep.py", "pyrep/backend/__init__.py")
REAL_RLBENCH = (
    "rlbench/__init__.py",
    "rlbench/environment.py",
    "rlbench/action_modes/__init__.py",
)


def test_the_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    unset = installation.check_simulator()
    assert unset is not None and unset.startswith(
        "COPPELIASIM_ROOT is not set, and 4.1 is needed; run `mkdir -p "
    )
    assert installation.SIMULATOR in unset and "export COPPELIASIM_ROOT=" in unset
    root = tmp_path / "CoppeliaSim"
    monkeypatch.setenv("COPPELIASIM_ROOT", str(root))
    assert f"COPPELIASIM_ROOT={root} is no folder" in str(installation.check_simulator())
    root.mkdir()
    assert "holds no libcoppeliaSim.so" in str(installation.check_simulator())
    (root / "libcoppeliaSim.so.1").touch()
    for name in ("LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.setenv(name, "/elsewhere")
        told = str(installation.check_simulator())
        assert told == f"{name} lacks it; run `export {name}=${name}:$COPPELIASIM_ROOT`"
        monkeypatch.setenv(name, f"/elsewhere:{root}/")
    assert installation.check_simulator() is None


def test_nothing_installed(site: Site) -> None:
    for problem, repository in (
        (installation.check_pyrep(), "stepjam/PyRep"),
        (installation.check_rlbench(), "stepjam/RLBench"),
    ):
        assert problem is not None and problem.startswith("not installed; ")
        assert "`pip install " in problem and f"git+https://github.com/{repository}.git" in problem


def test_the_real_pyrep(site: Site) -> None:
    site.package(*REAL_PYREP)
    site.distribution("PyRep", "4.1.0.3")
    problem = installation.check_pyrep()
    assert problem is not None and "was never built" in problem
    site.package("pyrep/backend/_sim_cffi.cpython-311-x86_64-linux-gnu.so")
    assert installation.check_pyrep() is None


@pytest.mark.parametrize("files", [("pyrep/__init__.py", "pyrep/Repository.py"), ("pyrep.py",)])
def test_the_stranger_of_that_name(site: Site, files: tuple[str, ...]) -> None:
    site.package(*files)
    site.distribution("pyrep", "3.2.0")
    problem = installation.check_pyrep()
    assert problem is not None
    assert problem.startswith("`pyrep` 3.2.0 is an unrelated project of that name; run `pip unin")
    assert problem.index("`pip uninstall pyrep`") < problem.index("github.com/stepjam/PyRep")


def test_a_folder_that_hides_it(site: Site) -> None:
    site.package("pyrep/notes.txt")
    problem = installation.check_pyrep()
    assert problem is not None and problem.startswith(f"{site.folder}/pyrep is not PyRep and hides")


@pytest.mark.parametrize(
    ("numpy", "works"), [("1.26.4", True), ("2.0.0", False), ("2.4.6", False), (None, True)]
)
def test_numpy(site: Site, numpy: str | None, works: bool) -> None:
    if numpy:
        site.distribution("numpy", numpy)
    assert installation.check_masks() is None
    site.package(*REAL_RLBENCH)
    problem = installation.check_masks()
    assert installation.check_rlbench() is None
    if works:
        assert problem is None
    else:
        told = f"cannot be read with numpy {numpy}; run `pip install 'numpy<2'` if you use them"
        assert problem == told


def test_a_folder_named_rlbench_is_not_it(site: Site) -> None:
    site.package("rlbench/data/notes.txt")
    assert str(installation.check_rlbench()).startswith("not installed")


def test_peracts_branch_without_all_its_packages(site: Site) -> None:
    """Its setup.py leaves action_modes out, so only an editable installation has it."""
    site.package(*REAL_RLBENCH[:2])
    told = str(installation.check_rlbench())
    assert told.startswith(f"{site.folder}/rlbench has no folder action_modes")
    assert "`pip install --no-deps -e 'git+https://github.com/MohitShridhar/RLBench.git@per" in told
    assert told.endswith("#egg=rlbench'`")
    site.package(REAL_RLBENCH[2])
    assert installation.check_rlbench() is None


def test_only_the_real_pyreps_version_is_told(site: Site) -> None:
    site.package("pyrep/__init__.py", "pyrep/Repository.py")
    site.distribution("pyrep", "3.2.0")
    assert [check.name for check in plugin.mirrorlib_checks()][1] == "PyRep"
    site.package(*REAL_PYREP, "pyrep/backend/_sim_cffi.cpython-311-x86_64-linux-gnu.so")
    assert [check.name for check in plugin.mirrorlib_checks()][1] == "PyRep 3.2.0"


def test_the_checks_are_of_the_simulator_alone_and_import_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the real path, where importing either would end the program."""
    Site(tmp_path).package(*REAL_PYREP, *REAL_RLBENCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    for check in plugin.mirrorlib_checks():
        assert check.needed_by in ((), ("simulator rlbench",)) and not check.slow
        resolve(check.run)()
    assert not {"pyrep", "rlbench"} & set(sys.modules)
    assert "never built" in str(installation.check_pyrep())
