"""`mirrorlib doctor`: whatever is broken is a row that says what mends it, never a traceback."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import sqlite3
import sys
import threading
import time
import tomllib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirrorlib import cli, doctor, plugins

PLUGIN = """
from mirrorlib import Check, hookimpl

@hookimpl
def mirrorlib_checks():
    return [Check("fine", f"{__name__}:fine"), Check("lacking", f"{__name__}:lacking"),
            Check("spare", f"{__name__}:lacking", needed_by=()),
            Check("raises", f"{__name__}:raises", slow=True)]

def fine():
    return None

def lacking():
    return "no library:\\n install it"

def raises():
    raise SystemExit("gone")
"""
MLFLOW = "__version__ = '3.14.0'\ndef get_tracking_uri(): return 'databricks'\n"
TORCH = "'torch>=2.6' torchvision" if find_spec("torchvision") else "'torch>=2.6'"
Usage = namedtuple("Usage", "total used free")


def found(monkeypatch: pytest.MonkeyPatch, site=None) -> list[doctor.Row]:
    """The rows of a site's plugins, without the core's own."""
    monkeypatch.setattr(doctor, "CORE", {})
    discovered = site.discover() if site else plugins.Plugins()
    monkeypatch.setattr(plugins, "installed", lambda: discovered)
    if site:
        monkeypatch.syspath_prepend(str(site.folder))
    return list(doctor.rows())


def look(function: Callable[[], doctor.Finding]) -> doctor.Row:
    return doctor._row("looked at", function)


# ----------------------------------------------------------------------------------------- plugins


def test_a_row_for_every_plugin_and_what_mends_it(site, monkeypatch) -> None:
    site.add("mirrorlib-a", "raise RuntimeError('operator\\nnms')")
    site.add("mirrorlib-b", PLUGIN.replace("checks()", "checks(core)"))
    site.add("mirrorlib-c", PLUGIN.replace("mirrorlib_checks", "mirrorlib_cheks"))
    site.add("mirrorlib-d", "raise SystemExit")
    site.add("mirrorlib-e", "x = 1")
    offered = "Component('x', build='a:b', config='a:c', summary='', api=2)"
    site.add("mirrorlib-f", "from mirrorlib import Component, hookimpl\n@hookimpl\n"
             f"def mirrorlib_texts(): return [{offered}]\n")  # fmt: skip
    site.add("mirrorlib-g", "x = 1", entry_points="[mirrorlib]\nno equals sign\n")
    monkeypatch.setenv("MIRRORLIB_DISABLE", "mirrorlib-d")
    first, *rows = found(monkeypatch, site)
    assert first == doctor.Row("ok", "plugins", "7 installed")
    upgrade = "run `pip install --upgrade {}`, or name it in MIRRORLIB_DISABLE to go without"
    assert rows[0] == doctor.Row(
        "mend", "mirrorlib-a",
        f"1.0, broken: RuntimeError: operator nms; {upgrade.format('mirrorlib-a')}",
    )  # fmt: skip
    assert [(row.name, row.status) for row in rows] == [
        ("mirrorlib-a", "mend"), ("mirrorlib-b", "mend"), ("mirrorlib-c", "mend"),
        ("mirrorlib-d", "optional"), ("mirrorlib-e", "ok"), ("mirrorlib-f", "mend"),
        ("unknown", "mend"),
    ]  # fmt: skip
    details = {row.name: row.detail for row in rows}
    assert details["mirrorlib-b"].startswith("1.0, bad signature: mirrorlib_checks does not take")
    assert details["mirrorlib-b"].endswith(upgrade.format("mirrorlib-b"))
    assert "unknown hook: mirrorlib_cheks is no hook; did you mean" in details["mirrorlib-c"]
    assert details["mirrorlib-d"] == "1.0, disabled: named in MIRRORLIB_DISABLE"
    assert "upgrade mirrorlib; name it in" in details["mirrorlib-f"]  # not the plugin
    assert details["unknown"].endswith("reinstall what lies there")


def test_a_row_for_every_check(site, monkeypatch) -> None:
    site.add("mirrorlib-a", PLUGIN)
    site.add("mirrorlib-b", PLUGIN.replace("return [Check", "return 1/0; [Check"))
    site.add("mirrorlib-c", PLUGIN.replace("return [Check", "return {}; [Check"))
    assert found(monkeypatch, site)[4:] == [
        doctor.Row("ok", "fine", "mirrorlib-a"),
        doctor.Row("mend", "lacking", "mirrorlib-a: no library: install it"),
        doctor.Row("optional", "spare", "mirrorlib-a: no library: install it"),
        doctor.Row("mend", "raises", "mirrorlib-a: SystemExit: gone"),
        doctor.Row("mend", "mirrorlib_checks",
                   "mirrorlib-b: ZeroDivisionError: division by zero"),
        doctor.Row("mend", "mirrorlib_checks",
                   "mirrorlib-c: _Refused: mirrorlib_checks must return a list of Check"),
    ]  # fmt: skip


def test_no_plugin_at_all(monkeypatch) -> None:
    (row,) = found(monkeypatch)
    assert (row.status, row.name) == ("optional", "plugins")
    assert row.detail.startswith("none is installed; install one")


def test_plugins_that_cannot_be_listed_are_a_row(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "CORE", {"a": lambda: ("ok", "fine")})
    monkeypatch.setattr(plugins, "installed", lambda: 1 / 0)
    assert list(doctor.rows()) == [
        doctor.Row("ok", "a", "fine"),
        doctor.Row("mend", "plugins", "cannot be listed (ZeroDivisionError: division by zero)"),
    ]


# ----------------------------------------------------------------------------------------- command


def test_the_command_names_each_look_before_it_looks(monkeypatch, capsys) -> None:
    shown: list[str] = []

    def see() -> doctor.Finding:
        shown.append(capsys.readouterr().out)
        return "ok", "seen"

    monkeypatch.setattr(doctor, "CORE", {"first": see, "second": see})
    monkeypatch.setattr(plugins, "installed", lambda: plugins.Plugins())
    assert cli.main(["doctor"]) == 0
    assert shown == ["first".ljust(28), "ok        seen\n" + "second".ljust(28)]


def test_this_machine(monkeypatch, capsys, tmp_path: Path) -> None:
    """The core's real looks, with room on the disk: none needs mending where tests can run."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**39))
    monkeypatch.setattr(plugins, "installed", lambda: plugins.Plugins())
    with tracking(f"sqlite:///{tmp_path}/mlflow.db"):
        assert cli.main(["doctor"]) == 0
        told = capsys.readouterr()
        lines = told.out.splitlines()
        assert [line[:26].rstrip() for line in lines] == [*doctor.CORE, "plugins"]
        assert all(re.match(r"(ok|mend|optional) *\Z", line[28:38]) for line in lines)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**30))
        assert cli.main(["doctor"]) == 2
    told = capsys.readouterr()
    assert told.err == "mirrorlib: to mend: disk: demonstrations, disk: runs\n"
    assert "1.0 GiB free in " in told.out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise OSError('libcudart.so.13: cannot\\nopen')",
         "does not import (OSError: libcudart.so.13: cannot open); run `pip install "
         f"--force-reinstall {TORCH}`"),
        ("raise SystemExit(3)", "does not import (SystemExit: 3); run `pip install"),
        ("raise ModuleNotFoundError('No module named torch', name='torch')",
         f"is not installed; run `pip install {TORCH}`"),
        ("import no_such_module", "does not import (ModuleNotFoundError: No module named"),
    ],
)  # fmt: skip
def test_a_torch_that_does_not_import(site, source: str, problem: str) -> None:
    (site.folder / "torch.py").write_text(source)
    (site.folder / "mlflow.py").write_text(MLFLOW)
    site.add("mirrorlib-a", "raise RuntimeError('no')")
    result = site.run("doctor")
    assert result.returncode == 2
    lines = {line[:26].rstrip(): line[28:] for line in result.stdout.splitlines()}
    assert [*lines] == [*doctor.CORE, "plugins", "mirrorlib-a"]
    assert lines["torch"].startswith(f"mend      {problem}")
    for name in ("device", "accelerate"):
        assert lines[name] == "mend      not known as long as torch does not import"
    assert lines["MLflow"].startswith("ok        3.14.0, databricks (not tried")
    assert result.stderr.startswith("mirrorlib: to mend: torch, device, accelerate, ")
    assert result.stderr.endswith(", mirrorlib-a\n") and result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------ what the core needs


def test_what_is_too_old(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.5.1+cu121"))
    row = look(doctor._torch)
    assert row.detail == f"2.5.1+cu121 is too old; run `pip install --upgrade {TORCH}`"
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.10.0a0+git1"))
    assert look(doctor._torch).status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    row = look(doctor._python)
    assert row.status == "mend" and "make an environment with Python 3.11 or later" in row.detail


def test_the_oldest_releases_are_those_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    required = dict(re.findall(r"^(\w+)>=([\d.]+)", "\n".join(project["dependencies"]), re.M))
    for name, oldest in doctor.OLDEST.items():
        assert required[name] == ".".join(map(str, oldest))
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor.OLDEST_PYTHON))


def fake_torch(count: int = 0, cuda: str | None = None, error: str = "") -> SimpleNamespace:
    def init() -> None:
        raise RuntimeError(error)

    names = {0: SimpleNamespace(name="NVIDIA H200", total_memory=140 * 2**30),
             1: SimpleNamespace(name="Tesla T4", total_memory=15 * 2**30)}  # fmt: skip
    current: list[int] = []
    namespace = SimpleNamespace(
        is_available=lambda: count > 0, device_count=lambda: count, init=init,
        get_device_properties=names.get,
        device=lambda index: nullcontext(current.append(index)),
        is_bf16_supported=lambda including_emulation: current[-1] == 0 and not including_emulation,
    )  # fmt: skip
    return SimpleNamespace(cuda=namespace, version=SimpleNamespace(cuda=cuda, hip=None))


def test_devices(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2, "13.2"))
    row = look(doctor._device)
    assert (row.status, row.detail) == (
        "ok", "cuda:0 NVIDIA H200, 140.0 GiB, bf16; cuda:1 Tesla T4, 15.0 GiB, no bf16",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    row = look(doctor._device)
    assert row.status == "ok"
    assert re.fullmatch(r"CPU only: \d+ cores, \d+\.\d GiB of memory", row.detail)
    error = "Found no NVIDIA driver on your system. Please check that you\nhave one."
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0, "13.2", error))
    row = look(doctor._device)
    assert row.status == "optional"
    assert row.detail.startswith("CPU only: ")
    assert row.detail.endswith(
        "torch is built for CUDA 13.2 but cannot use it: Found no NVIDIA driver on your system"
    )


def test_a_full_disk(monkeypatch, tmp_path: Path) -> None:
    asked: list[Path] = []

    def usage(free: float) -> None:
        def disk_usage(path: Path) -> Usage:
            asked.append(path)
            return Usage(2**40, 0, int(free * 2**30))

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)

    monkeypatch.setenv("MIRRORLIB_CACHE", str(tmp_path / "not" / "there"))
    usage(4.9)
    row = look(doctor._demonstrations_disk)
    assert (row.status, row.detail) == (
        "mend", f"4.9 GiB free in {tmp_path}/not/there, 5 GiB are wanted: make room, or set "
        "MIRRORLIB_CACHE to a folder elsewhere",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert look(doctor._runs_disk).detail.endswith(
        "or set a recipe's `output` to a folder elsewhere"
    )
    usage(5.1)
    assert look(doctor._demonstrations_disk).status == look(doctor._runs_disk).status == "ok"
    assert set(asked) == {tmp_path} and not any(tmp_path.iterdir())


def test_a_look_that_fails_is_a_row() -> None:
    assert look(lambda: {}[1]).detail == "cannot be looked at (KeyError: 1)"  # type: ignore[index]
    assert look(lambda: sys.exit(0)).status == "mend"
    with pytest.raises(KeyboardInterrupt):
        look(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


# ------------------------------------------------------------------------------------------ MLflow


@contextmanager
def tracking(uri: str) -> Iterator[None]:
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)


def test_a_server_that_does_not_answer_is_asked_once(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with closing(socket.create_server(("127.0.0.1", 0), backlog=16)) as server:
        uri = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        with tracking(uri):
            start = time.monotonic()
            row = look(doctor._mlflow)
        assert time.monotonic() - start < 10
        server.settimeout(0.2)
        server.accept()[0].close()
        with pytest.raises(TimeoutError):
            server.accept()
    assert row.status == "mend"
    assert "cannot be used (" in row.detail and "timed out" in row.detail
    assert "MLFLOW_TRACKING_URI" in row.detail
    assert "secret" not in row.detail
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") != "1"


def test_a_server_that_refuses() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    with tracking(f"http://127.0.0.1:{port}"):
        row = look(doctor._mlflow)
    assert row.status == "mend" and "Connection refused" in row.detail


def test_a_server_that_answers() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"experiments": []}')

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with tracking(uri):
            row = look(doctor._mlflow)
        server.shutdown()
    assert row.status == "ok" and row.detail.endswith(f", {uri} answers"), row


def test_a_sqlite_file_is_opened_and_never_made(monkeypatch, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with tracking("sqlite:///mlflow.db"):
        row = look(doctor._mlflow)
        assert row.status == "ok" and row.detail.endswith("mlflow.db is made by the first run")
        assert not any(folder.iterdir())
        sqlite3.connect("mlflow.db").execute("CREATE TABLE runs (x)").connection.close()
        before = (folder / "mlflow.db").read_bytes()
        assert look(doctor._mlflow).detail.endswith("mlflow.db opens")
        assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
        assert (folder / "mlflow.db").read_bytes() == before
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "mlflow.db cannot be written; change" in look(doctor._mlflow).detail
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        (folder / "mlflow.db").write_text("no database, and long enough to be read as one" * 99)
        row = look(doctor._mlflow)
        assert row.status == "mend"
        assert "mlflow.db cannot be opened (file is not a database)" in row.detail


@pytest.mark.parametrize(
    ("uri", "status", "told"),
    [
        ("sqlite://", "ok", "in memory"),
        ("databricks", "ok", "databricks (not tried: only servers and SQLite files are)"),
        ("postgresql://u:secret@h/db", "ok", "postgresql://h/db (not tried: only servers and"),
        ("file:///tmp/mlruns", "mend", "set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"),
    ],
)  # fmt: skip
def test_other_stores(monkeypatch, uri: str, status: str, told: str) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with tracking(uri):
        row = look(doctor._mlflow)
    assert row.status == status and told in row.detail, row
    assert "secret" not in row.detail
