"""Every promise of the README that a machine can check: its commands run, its examples work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from small_run import environment

from mirrorlib.assembly import build_joint
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import build_section
from mirrorlib.run import main
from mirrorlib.training.lamb import Lamb
from mirrorlib.training.optimizer import build_optimizer
from mirrorlib.training.size import parameter_counts

pytest.importorskip("mirrorlib_tabletop")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUICK = [
    "source.tasks={turn_tap: null}", "source.train=2", "source.test=1", "batch.instructions=2",
    "train.steps=2", "evaluation.simulator=null", "evaluation.probe_steps=5", "data.workers=2",
]  # fmt: skip
THIRTY_TWO_PAIRS = ("source.train=16", "batch.episodes=16")
BY_HAND = ("git clone", "sudo apt-get", "source .venv/bin/activate")
"""What only makes sense on a bare machine; `.ci/run` starts from a fresh clone."""


def commands() -> list[str]:
    """The README's indented lines, those that go on after a backslash joined, comments dropped."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    blocks = re.findall(r"(?:^ {4}\S.*\n(?: {4,}.*\n)*)", text, flags=re.M)
    joined = re.sub(r"\\\n\s+", " ", "".join(blocks))
    joined = re.sub(r"(null|false|\]),\n\s+", r"\1, ", joined)  # a quoted value goes on
    return [line.split("  #")[0].strip() for line in joined.splitlines()]


LAUNCHES = [c for c in commands() if re.search(r"-m mirrorlib\.run\b", c)]
ON_GPUS = [c for c in LAUNCHES if "--multi_gpu" in c]
PUBLISHED = [c for c in LAUNCHES if "recipes/small/" in c]
"""What needs published weights; tests/test_recipes.py runs those recipes with small networks."""
RECORDED = [c for c in commands() if c.endswith("~/data/rlbench")]
"""What needs recordings of RLBench's."""
PLAIN = "accelerate launch -m mirrorlib.run recipes/infonce.yaml"
PROBE = "accelerate launch -m mirrorlib.probe recipes/probe.yaml"
OURS = [c for c in commands() if c.startswith("mirrorlib ") and c not in RECORDED]


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def example(start: str) -> str:
    (found,) = [block for block in fenced("yaml") if block.startswith(start)]
    return found


def shell(command: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=settings(folder) | more, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


def settings(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return environment(folder) | {"PATH": path}


def quickly(command: str, *more: str) -> str:
    pairs = THIRTY_TWO_PAIRS if "cka" in command else ()
    return f"{command} {shlex.join([*QUICK, *pairs, *more])}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a checkout looks to the one who types, demonstrations recorded."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "records"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "my-run.yaml").write_text(example("name: my-run"))
    return folder


def test_every_command_is_known_here():
    """A new line in the README needs a test."""
    known = [*LAUNCHES, *OURS, *RECORDED, PROBE, "L = L_observer + w_e L_executor + w_a L_align"]
    others = [c for c in commands() if c not in known and not c.startswith((*BY_HAND, "make "))]
    assert [other.partition(": ")[0] for other in others] == ["my-run.yaml:5:28"]
    assert len(ON_GPUS) == 2 and len(LAUNCHES) > 8 and len(OURS) > 3


def test_the_parameters_it_treats_apart_are_there():
    written = yaml.safe_load(example("name: my-run"))
    written["train"] |= yaml.safe_load(example("train:"))["train"]
    recipe = load_recipe(written)
    joint = build_joint(recipe, build_section("source", recipe.source).properties)
    every, learning = parameter_counts(joint)["observer"]
    assert 0 < learning < every
    assert isinstance(build_optimizer(joint, recipe.train), Lamb)


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_the_makefile_has_it(command: str):
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if command == "make demo":
        assert "-m mirrorlib.run recipes/infonce.yaml" in done.stdout


@pytest.mark.parametrize(
    "command", dict.fromkeys(c for c in LAUNCHES if c not in (*ON_GPUS, *PUBLISHED, *RECORDED))
)
def test_a_launch_line_runs(command: str, folder: Path, monkeypatch, capfd):
    """One under Accelerate's launcher, one under torchrun; the others in this process, which has
    imported everything already."""
    words = shlex.split(quickly(command))
    arguments = words[words.index("mirrorlib.run") + 1 :]
    if command == PLAIN or command.startswith("torchrun "):
        done = shell(shlex.join(words), folder)
        code, printed = done.returncode, done.stdout + done.stderr
    else:
        for name, value in settings(folder).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        code = main(arguments)
        AcceleratorState._reset_state(reset_partial_state=True)
        printed = "".join(capfd.readouterr())
    assert code == 0, printed[-2000:]
    assert ("| wall time |" in printed) != ("--dry-run" in command)
    if "--dry-run" in command:
        for part in ("clips.frames", "recording ", "training ", "checkpoint ", "evaluation "):
            assert f"\n{part}" in printed


@pytest.mark.skipif("MIRRORLIB_RLBENCH_DATA" not in os.environ, reason="no recordings are at hand")
def test_what_needs_recordings_runs(folder: Path):
    (folder / "data").mkdir()
    (folder / "data" / "rlbench").symlink_to(os.environ["MIRRORLIB_RLBENCH_DATA"])
    check, launch = RECORDED
    checked = shell(check, folder, HOME=str(folder))
    assert checked.returncode == 0 and "63 of 63 episodes" in checked.stdout, checked.stderr
    fewer = ["source.tasks=[open_drawer]", "source.test=1", "batch.instructions=3"]
    quick = [*fewer, "train.max_steps=2", "evaluation.probe_steps=5", "data.workers=2"]
    launched = shell(f"{launch} {shlex.join(quick)}", folder, HOME=str(folder))
    assert launched.returncode == 0, launched.stderr[-2000:]
    metrics = json.loads((folder / "runs/rlbench-small/report.json").read_text())["metrics"]
    assert metrics["eval/recognition_accuracy_chance"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("command", PUBLISHED)
def test_a_launch_line_for_one_gpu_is_read_as_meant(command: str):
    from accelerate.commands.launch import launch_command_parser

    found = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert (found.module, found.training_script, found.mixed_precision) == (
        True, "mirrorlib.run", "bf16",
    )  # fmt: skip
    assert load_recipe(ROOT / found.training_script_args[0]).observer.name == "viclip"


@pytest.mark.parametrize("command", ON_GPUS)
def test_a_launch_line_for_gpus_is_read_as_meant(command: str):
    from accelerate.commands.launch import launch_command_parser

    found = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert (found.module, found.training_script, found.mixed_precision, found.multi_gpu) == (
        True, "mirrorlib.run", "bf16", True,
    )  # fmt: skip
    assert found.num_processes == 8 * (found.num_machines or 1)
    recipe = load_recipe(ROOT / found.training_script_args[0])
    assert recipe.batch.instructions % found.num_processes == 0


@pytest.mark.parametrize("command", dict.fromkeys(c for c in OURS if c != "mirrorlib ui"))
def test_a_command_runs(command: str, folder: Path):
    if " runs/infonce" in command and not (folder / "runs" / "infonce").exists():
        shell(quickly("python -m mirrorlib.run recipes/infonce.yaml"), folder)
    done = shell(quickly(command) if " evaluate " in command else command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_the_ui_answers_at_the_link_that_it_prints(folder: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["mirrorlib", "ui", "--port", str(port)], cwd=folder, env=settings(folder),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout
        said = next(line for line in process.stdout if "/#/experiments/" in line)
        link = said.rpartition(" ")[2].strip()
        assert re.fullmatch(
            rf"http://127.0.0.1:{port}/#/experiments/\d+/runs\?workflowType=machine_learning\S*",
            link,
        )
        assert eventually_answers(link, process) == 200
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


def eventually_answers(link: str, process: subprocess.Popen) -> int:
    """The status with which a server answers once it is up, as long as its process lives."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(link, timeout=5) as answer:
                return int(answer.status)
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)


def test_the_commands_in_the_table_exist():
    helped = subprocess.run(
        [sys.executable, "-m", "mirrorlib.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    offered = set(re.findall(r"^ {4}(\w+)", helped, flags=re.M))
    told = set(re.findall(r"^\| `mirrorlib (\w+)", README, flags=re.M))
    assert told == offered


def test_the_example_recipe_runs_and_its_mistake_is_told(folder: Path):
    done = shell(quickly("python -m mirrorlib.run my-run.yaml"), folder)
    assert done.returncode == 0, done.stderr[-2000:]
    written = (folder / "my-run.yaml").read_text()
    (folder / "wrong").mkdir()
    (folder / "wrong" / "my-run.yaml").write_text(written.replace("temperature", "temprature"))
    done = shell("mirrorlib check my-run.yaml", folder / "wrong")
    assert done.returncode == 2
    assert done.stderr.strip() in commands()


def test_the_plugin_of_twenty_lines(folder: Path):
    """Installed as anyone's, listed, and trained with."""
    (project,) = fenced("toml")
    code = next(block for block in fenced("python") if "hookimpl" in block)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
    place = folder / "plugin"
    place.mkdir()
    (place / "pyproject.toml").write_text(project.partition("\n")[2])
    (place / "mirrorlib_margin.py").write_text(code.partition("\n")[2])
    site = folder / "site"
    pip = f"pip install --quiet --no-deps --no-build-isolation --no-index --target {site} ."
    done = shell(f"python -m {pip}", place)
    assert done.returncode == 0, done.stderr
    path = {"PYTHONPATH": str(site)}
    rows = json.loads(shell("mirrorlib plugins --json", folder, **path).stdout)
    (row,) = [row for row in rows if row["distribution"] == "mirrorlib-margin"]
    assert row["status"] == "ok"
    assert row["components"] == [
        {"kind": "objective", "name": "margin", "summary": "pulls pairs within a margin"}
    ]
    command = quickly("python -m mirrorlib.run my-run.yaml", "objective={name: margin}", "name=own")
    done = shell(command, folder, **path)
    assert done.returncode == 0, done.stderr[-2000:]
    log = (folder / "runs/own/metrics.jsonl").read_text().splitlines()
    row = next(row for row in map(json.loads, log) if "train/loss" in row)
    assert 0 < row["train/alignment/loss"] < 2


@pytest.mark.parametrize("code", [c for c in fenced("python") if "hookimpl" not in c])
def test_an_example_in_python_runs(code: str, folder: Path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", done.stdout)]
    assert numbers and min(numbers) > 0


def test_the_box_holds_what_the_table_says(folder: Path):
    rows = json.loads(shell("mirrorlib plugins --json", folder).stdout)
    installed = {row["distribution"]: {c["name"] for c in row["components"]} for row in rows}
    box = README.partition("## What is in the box")[2].partition("\n\n##")[0]
    told = dict(re.findall(r"^\| `(mirrorlib[\w-]*)` \| (.*) \|$", box, flags=re.M))
    assert told.keys() - {"mirrorlib"} == installed.keys()
    for distribution, names in installed.items():
        for name in names:
            assert f"`{name}`" in told[distribution], (distribution, name)
