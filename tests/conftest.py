"""Plugins made up for a test: distributions in a folder of their own, found like any other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from interrupting import SHORT
from small_run import Finished, launch

from mirrorlib import plugins
from mirrorlib.registry import Registry

FAKE = """
from typing import ClassVar
from pydantic import BaseModel, ConfigDict, Field, field_validator
from mirrorlib import Check, Component, hookimpl

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

class Scenes(Options):
    count: int = Field(3, ge=1, description="Scenes of each task.")
    tasks: tuple[str, ...] = ("push", "pull")

class Trunk(Options):
    width: int = 8

class Encoder(Options):
    preset: str = "tiny"
    trunk: Trunk = Trunk()
    rate: float = 1e-5
    cameras: tuple[str, ...] | None = None
    proprioception_dim: int | None = None

class Pull(Options):
    temperature: float = Field(0.1, gt=0, description="Softness.")

    @field_validator("temperature")
    @classmethod
    def check(cls, value):
        if value == 13:
            raise KeyError("thirteen")
        return value

class Crowd(Options):
    minimum_rows: ClassVar[int] = 40

class Exact(Options):
    required_pairing: ClassVar[str] = "episode"

class Thing:
    def __init__(self, config):
        self.config = config

class Hostile(Options):
    @field_validator("*", mode="before")
    @classmethod
    def check(cls, value):
        raise RuntimeError("hostile")
    size: int = 1

def component(name, config, summary="made up"):
    return Component(name, build=f"{__name__}:Thing", config=f"{__name__}:{config}",
                     summary=summary)

@hookimpl
def mirrorlib_sources():
    return [component("scenes", "Scenes")]

@hookimpl
def mirrorlib_simulators():
    return [component("scenes", "Scenes")]

@hookimpl
def mirrorlib_observers():
    return [component("eyes", "Encoder")]

@hookimpl
def mirrorlib_executors():
    return [component("hands", "Encoder")]

@hookimpl
def mirrorlib_projectors():
    return [component("linear", "Trunk")]

@hookimpl
def mirrorlib_objectives():
    return [component("pull", "Pull"), component("none", "Options"),
            component("hostile", "Hostile"), component("crowd", "Crowd"),
            component("exact", "Exact"),
            Component("absent", build="no_such_module:x", config="no_such_module:y", summary="")]
"""

RECIPE = """\
# a recipe of made-up components
seed: 1
source: {name: scenes, count: 4}
observer:
  name: eyes
  trunk: {width: 16}
executor: {name: hands}
objective: {name: pull, temperature: 2e-1}
pairing: instruction
train:
  steps: 20
  weights: {alignment: 0.25}
evaluation:
  simulator: {name: scenes}
  templates: ["{}", "a robot: {}"]
"""


class Site:
    """A folder on the path, holding distributions and their modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def add(
        self,
        distribution: str,
        source: str,
        *,
        module: str | None = None,
        entry_point: str = "plugin",
        entry_points: str | None = None,
    ) -> str:
        """Install a distribution of one module, named after it. Returns the module's name."""
        module = module or f"{re.sub(r'[-.]', '_', distribution)}_{abs(hash(self.folder)):x}"
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        text = entry_points or f"[mirrorlib]\n{entry_point} = {module}\n"
        (info / "entry_points.txt").write_text(text)
        return module

    def discover(self) -> plugins.Plugins:
        """The plugins of this folder alone, whatever else is installed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(self.folder))
            patch.setattr(
                plugins, "distributions", lambda: metadata.distributions(path=[str(self.folder)])
            )
            return plugins.discover()

    def run(self, *argv: str, module: str = "cli", after: str = "") -> subprocess.CompletedProcess:
        """Run `mirrorlib ARGV` in a process that sees the plugins of this folder alone."""
        code = (
            "import sys\n"
            "from importlib import metadata\n"
            f"sys.path.insert(0, {str(self.folder)!r})\n"
            "from mirrorlib import plugins\n"
            f"plugins.distributions = lambda: metadata.distributions(path=[{str(self.folder)!r}])\n"
            f"from mirrorlib.{module} import main\n"
            f"code = main({list(argv)!r})\n"
            f"{after}\n"
            "sys.exit(code)\n"
        )
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of one file are."""
    return tmp_path_factory.mktemp("end to end")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Finished:
    """What runs that are interrupted must end as."""
    return launch(folder, "infonce", *SHORT)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def fake_site(site: Site) -> Site:
    site.add("mirrorlib-fake", FAKE, module="mirrorlib_fake_components")
    return site


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One made-up plugin with a component of every kind that a recipe needs."""
    folder = Site(tmp_path_factory.mktemp("fake") / "site")
    folder.add("mirrorlib-fake", FAKE, module="mirrorlib_fake_session")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.folder))
        plugins = folder.discover()
        for metadata in folder.folder.glob("*.dist-info"):
            shutil.rmtree(metadata)  # its code stays importable; no other test discovers it
        yield Registry(plugins)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "sample.yaml"
    path.write_text(RECIPE)
    return path
