"""The commands: what they print, what they return, and that they start fast."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mirrorlib
from mirrorlib import cli
from mirrorlib.errors import ComponentError, RecipeError, UserError
from mirrorlib.recipe import load_recipe

KEPT = f"mirrorlib: {cli.KEPT}\n"
NO_TORCH = "assert not {'torch', 'mlflow', 'mujoco'} & set(sys.modules)"
CHECKS = """
from mirrorlib import Check, hookimpl

@hookimpl
def mirrorlib_checks():
    return [Check("graphics", f"{__name__}:graphics"),
            Check("drawing", "nowhere:slow", slow=True),
            Check("spare", "nowhere:spare", needed_by=())]

def graphics():
    return "no GL library: install libegl1"
"""


def test_check_says_what_it_found(fake_site, recipe_file: Path) -> None:
    result = fake_site.run("check", str(recipe_file), "train.steps=7", after=NO_TORCH)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "ok: sample: source scenes, observer eyes, executor hands, projector linear, "
        "objective pull, simulator scenes; 7 steps of 16 x 2 pairs; "
    )
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("module", ["cli", "run"])
def test_problems_of_a_recipe_are_lines(fake_site, recipe_file: Path, module: str) -> None:
    command = ("check",) if module == "cli" else ()
    arguments = (*command, str(recipe_file), "seed=x", "batch.episodes=1")
    result = fake_site.run(*arguments, module=module, after=NO_TORCH)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "override seed=x: seed: must be a whole number, not 'x'",
        "override batch.episodes=1: batch.episodes: must be greater than or equal to 2, not 1",
    ]


def test_missing_recipe_is_one_line(site, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    result = site.run("check", str(missing))
    assert (result.returncode, result.stderr) == (2, f"{missing}: no such file\n")


def test_check_asks_the_plugins_in_use(fake_site, recipe_file: Path) -> None:
    fake_site.add("mirrorlib-unused", CHECKS)
    assert fake_site.run("check", str(recipe_file)).returncode == 0
    with (fake_site.folder / "mirrorlib_fake_components.py").open("a") as module:
        module.write(CHECKS)
    result = fake_site.run("check", str(recipe_file))
    assert (result.returncode, result.stderr) == (
        2, "mirrorlib: mirrorlib-fake: graphics: no GL library: install libegl1\n",
    )  # fmt: skip


def test_plugins_lists_all(fake_site) -> None:
    fake_site.add("mirrorlib-broken", "raise RuntimeError('no nms')")
    result = fake_site.run("plugins", after=NO_TORCH)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "mirrorlib-broken 1.0  broken: RuntimeError: no nms"
    assert lines[1] == "mirrorlib-fake 1.0  ok"
    assert "  objective  pull     made up" in lines
    rows = json.loads(fake_site.run("plugins", "--json").stdout)
    assert rows[0] == {
        "distribution": "mirrorlib-broken", "version": "1.0", "entry_point": "plugin",
        "status": "broken", "reason": "RuntimeError: no nms", "components": [],
    }  # fmt: skip
    assert {"kind": "observer", "name": "eyes", "summary": "made up"} in rows[1]["components"]


def test_the_core_alone(site, fake_site) -> None:
    none = fake_site.run("plugins", "--no-plugins")
    assert (none.returncode, none.stdout) == (0, "no plugin was loaded (--no-plugins)\n")
    for info in site.folder.glob("*.dist-info"):
        (info / "entry_points.txt").unlink()
    alone = site.run("plugins")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == "no plugin is installed; install one with `pip install NAME`\n"
    assert json.loads(site.run("plugins", "--json").stdout) == []


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (None, 0, ""),
        (UserError("a\nb"), 2, "mirrorlib: a b\n"),
        (ComponentError("x"), 2, "mirrorlib: x\n"),
        (RecipeError("r.yaml:1:1: a", "r.yaml:2:1: b"), 2, "r.yaml:1:1: a\nr.yaml:2:1: b\n"),
        (KeyboardInterrupt(), 130, KEPT),
        (SystemExit(2), 2, ""),
    ],
)  # fmt: skip
def test_exit_codes(error: BaseException | None, code: int, shown: str, capsys) -> None:
    def function() -> None:
        if error is not None:
            raise error

    assert cli.guarded(function) == code
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("error", [ValueError("ours"), BrokenPipeError("a worker's pipe")])
def test_our_defects_keep_their_traceback(error: Exception, capsys) -> None:
    def function() -> None:
        raise error

    assert cli.guarded(function) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["mirrorlib.cli", "mirrorlib.run"])
def test_usage(module: str) -> None:
    def python(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    helped = python("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("usage: ")
    wrong = python()
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage: ")
    assert "Traceback" not in wrong.stderr
    if module == "mirrorlib.cli":
        assert python("--version").stdout == f"mirrorlib {mirrorlib.__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys\nfrom mirrorlib.cli import guarded\n"
        "sys.exit(guarded(lambda: [print('x' * 1000) for _ in range(10000)]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == cli.PIPE_CLOSED


def test_ctrl_c_is_one_line() -> None:
    code = (
        "import sys, time\nfrom mirrorlib.cli import guarded\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.exit(guarded(wait))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(2)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.count("\n")) == (130, 1)


def test_record_and_ui_call_what_does_the_work(monkeypatch, recipe_file: Path, registry) -> None:
    calls: list[object] = []

    class Stub:
        record = staticmethod(lambda *given: calls.append(given))
        serve_ui = staticmethod(calls.append)

    monkeypatch.setitem(sys.modules, "mirrorlib.pipeline", Stub)
    monkeypatch.setitem(sys.modules, "mirrorlib.ui", Stub)
    monkeypatch.setattr(mirrorlib, "pipeline", Stub, raising=False)
    monkeypatch.setattr("mirrorlib.recipe.load_recipe", _loader(registry))
    assert cli.main(["record", str(recipe_file), "seed=5", "--rebuild"]) == 0
    assert cli.main(["ui", "--port", "5005"]) == 0
    recipe, rebuild = calls[0]  # type: ignore[misc]
    assert (recipe.seed, rebuild, calls[1]) == (5, True, 5005)


def _loader(registry):
    return lambda path, overrides=(): load_recipe(path, overrides, registry=registry)


def test_python_api_imports_nothing_heavy() -> None:
    code = (
        "import sys, mirrorlib\n"
        "assert callable(mirrorlib.run) and callable(mirrorlib.build)\n"
        "import mirrorlib.run\n"
        "assert callable(mirrorlib.run)\n"
        "assert mirrorlib.components('objective') is not None\n"
        "assert mirrorlib.Component and mirrorlib.Check and mirrorlib.hookimpl\n"
        "assert 'torch' not in sys.modules\n"
        "assert mirrorlib.interfaces.Observer and 'torch' in sys.modules\n"
        "assert not hasattr(mirrorlib, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "probe")


@pytest.mark.parametrize("arguments", [("plugins",), *(("check", str(path)) for path in RECIPES)])
def test_the_installed_plugins_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom mirrorlib.cli import main\n"
        f"assert main({list(arguments)!r}) == 0\n"
        "heavy = {'torch', 'torchvision', 'mlflow', 'mujoco', 'triton', 'numpy', 'accelerate'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("command", ["plugins", "check"])
def test_commands_start_fast(fake_site, recipe_file: Path, command: str) -> None:
    """The target is 0.5 s of wall time. Processor time is what a busy machine leaves comparable,
    and a slow one is allowed for by what starting Python and its libraries takes."""
    arguments = ("check", str(recipe_file)) if command == "check" else ("plugins",)

    def processor_seconds(run: Callable[[], subprocess.CompletedProcess]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run().returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def bare() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", "import pydantic, yaml, pluggy"], check=False)

    ours = min(processor_seconds(lambda: fake_site.run(*arguments)) for _ in range(3))
    needed = min(processor_seconds(bare) for _ in range(3))
    # About 0.1 s and 0.3 s, 1 and 3 times what is needed; importing torch alone takes seconds.
    assert ours < max(0.5, 5 * needed)
