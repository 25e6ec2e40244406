"""What `mirrorlib doctor` looks at: the machine, what the core needs, every plugin and its checks.

Each look is alone: whatever it raises becomes a row, and nothing heavy is imported before it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import mirrorlib
from mirrorlib import plugins
from mirrorlib.data.location import default_folder
from mirrorlib.errors import UserError
from mirrorlib.plugins import DISABLE, Examination, summary

Status = Literal["ok", "mend", "optional"]

OLDEST_PYTHON = (3, 11)
OLDEST = {"torch": (2, 6), "accelerate": (1, 2), "mlflow": (3, 13)}
"""The oldest release of each that works, as this distribution's own requirements say."""
PARTNERS = {"torch": ("torchvision",)}
"""What must be of a matching release where it is installed, and so is installed together."""
DISK = 5.0
"""GiB that should be free."""
PATIENCE = 3
"""Seconds that a server or a locked database is waited for."""


@dataclass(frozen=True)
class Row:
    """What was found. status: `ok`; `mend`, where detail says what mends it; or `optional`, where
    it is not as it could be and recipes can do without."""

    status: Status
    name: str
    detail: str


Finding = tuple[Status, str]
Look = Callable[[], Finding]


def rows(announce: Callable[[str], object] = lambda name: None) -> Iterator[Row]:
    """Look at one thing after the other. `announce` is told each row's name before the look."""
    for name, look in CORE.items():
        announce(name)
        yield _row(name, look)
    announce("plugins")
    try:
        found = plugins.installed()
    except (Exception, SystemExit) as error:
        yield Row("mend", "plugins", f"cannot be listed ({summary(error)})")
        return
    if found.rows:
        yield Row("ok", "plugins", f"{len(found.rows)} installed")
    else:
        yield Row("optional", "plugins", "none is installed; install one with `pip install NAME`")
    for plugin in found.rows:
        announce(plugin.distribution)
        yield _plugin(plugin)
    for examination in found.diagnose(plugin.distribution for plugin in found.rows):
        announce(examination.check.name)
        yield _row(examination.check.name, partial(_examined, examination))


def _row(name: str, look: Look) -> Row:
    """The row of a look that may raise anything. Its warnings would tear the table: dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status, detail = look()
    except UserError as error:
        status, detail = "mend", error.lines[0]
    except (Exception, SystemExit) as error:
        status, detail = "mend", f"cannot be looked at ({summary(error)})"
    return Row(status, name, detail)


# ----------------------------------------------------------------------------- what the core needs


def _python() -> Finding:
    release = platform.python_version()
    if tuple(sys.version_info[:2]) < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise UserError(f"{release} is too old: make an environment with Python {wanted} or later")
    return "ok", release


def _mirrorlib() -> Finding:
    return "ok", mirrorlib.__version__


def _torch() -> Finding:
    return "ok", str(_imported("torch").__version__)


def _accelerate() -> Finding:
    _working_torch()
    return "ok", str(_imported("accelerate").__version__)


def _device() -> Finding:
    torch = _working_torch()
    if torch.cuda.is_available():
        return "ok", "; ".join(_gpu(torch, index) for index in range(torch.cuda.device_count()))
    import psutil

    from mirrorlib.processes import own_cores

    memory = psutil.virtual_memory().total
    cpu = f"CPU only: {own_cores()} cores, {_gibibytes(memory)} of memory"
    built = f"ROCm {torch.version.hip}" if torch.version.hip else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else built
    if not built:
        return "ok", cpu
    try:
        torch.cuda.init()
        why = "no GPU is visible"
    except Exception as error:
        why = " ".join(str(error).split()).partition(". ")[0]
    return "optional", f"{cpu}; torch is built for {built} but cannot use it: {why}"


def _gpu(torch: Any, index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    memory = _gibibytes(properties.total_memory)
    return f"cuda:{index} {properties.name}, {memory}, {'bf16' if bf16 else 'no bf16'}"


def _demonstrations_disk() -> Finding:
    return _disk(default_folder(), "set MIRRORLIB_CACHE to a folder elsewhere")


def _runs_disk() -> Finding:
    return _disk(Path.cwd(), "set a recipe's `output` to a folder elsewhere")


def _disk(folder: Path, cure: str) -> Finding:
    """Free space where a folder is, or would be made."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{_gibibytes(free)} free in {folder}"
    if free < DISK * 2**30:
        raise UserError(f"{found}, {DISK:g} GiB are wanted: make room, or {cure}")
    return "ok", found


def _imported(name: str) -> Any:
    """A module that the core needs. Raises UserError where it is absent, broken or too old."""
    oldest = OLDEST[name]
    partners = [partner for partner in PARTNERS.get(name, ()) if _there(partner)]
    wanted = " ".join([f"'{name}>={'.'.join(map(str, oldest))}'", *partners])
    try:
        module = import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise UserError(f"is not installed; run `pip install {wanted}`") from None
        cure = f"run `pip install --force-reinstall {wanted}`"
        raise UserError(f"does not import ({summary(error)}); {cure}") from error
    release = str(module.__version__)
    if tuple(int(number) for number in re.findall(r"\d+", release)[:2]) < oldest:
        raise UserError(f"{release} is too old; run `pip install --upgrade {wanted}`")
    return module


def _there(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _working_torch() -> Any:
    try:
        return import_module("torch")
    except (Exception, SystemExit):
        raise UserError("not known as long as torch does not import") from None


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


# ------------------------------------------------------------------------------------------ MLflow


def _mlflow() -> Finding:
    """Whether runs can be filed where MLflow would file them. Nothing is created."""
    mlflow = _imported("mlflow")
    uri = str(mlflow.get_tracking_uri())
    shown = re.sub(r"//[^/@]*@", "//", uri)
    found = f"{mlflow.__version__}, {shown}"
    if uri.startswith(("http://", "https://")):
        _refuse_silent_server(mlflow, shown)
        return "ok", f"{found} answers"
    if uri.startswith("sqlite:"):
        return "ok", f"{found} {_sqlite_state(uri)}"
    folder = uri.startswith(("file:", "/", "."))
    if folder and not mlflow.environment_variables.MLFLOW_ALLOW_FILE_STORE.get():
        cure = "set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        raise UserError(f"{shown}: MLflow no longer keeps runs in plain folders; {cure}")
    return "ok", f"{found} (not tried: only servers and SQLite files are)"


def _refuse_silent_server(mlflow: Any, shown: str) -> None:
    try:
        with _environment(
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(PATIENCE)
        ):
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:
        root: BaseException = error
        while inner := root.__cause__ or root.__context__:
            root = inner
        raise UserError(
            f"{shown} cannot be used ({summary(root)}); start that server or change "
            "MLFLOW_TRACKING_URI (training goes on without, its metrics in the run's folder)"
        ) from error


def _sqlite_state(uri: str) -> str:
    """What a run would find at a SQLite URI. Raises UserError where it could not be used."""
    from sqlalchemy import make_url  # MLflow's own reading of it

    database = make_url(uri).database
    if database in (None, "", ":memory:"):
        return "is in memory: what is logged goes with the process"
    path = Path(str(database)).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    cure = "change MLFLOW_TRACKING_URI"
    if not os.access(there, os.W_OK):
        raise UserError(f"{there} cannot be written; {cure}")
    if there != path:
        return "is made by the first run"
    try:
        # Read-only: even opening must not make or change a file.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", PATIENCE, uri=True)) as opened:
            opened.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be opened ({error}); move it away or {cure}") from error
    return "opens"


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


# ----------------------------------------------------------------------------------------- plugins


def _plugin(row: plugins.Row) -> Row:
    if row.status == "ok":
        return Row("ok", row.distribution, row.version)
    found = f"{row.version}, {row.status}: {row.reason}"
    if row.status in ("disabled", "conflict"):
        return Row("optional", row.distribution, found)
    cure = f"name it in {DISABLE} to go without"
    if row.status != "incompatible":  # the reason says which side to upgrade
        cure = f"run `pip install --upgrade {row.distribution}`, or {cure}"
    if not row.entry_point:
        cure = "reinstall what lies there"
    return Row("mend", row.distribution, f"{found}; {cure}")


def _examined(examination: Examination) -> Finding:
    problem = examination.problem()
    if problem is None:
        return "ok", examination.distribution
    status: Status = "mend" if examination.check.needed_by is None else "optional"
    return status, f"{examination.distribution}: {problem}"


CORE: Mapping[str, Look] = {
    "Python": _python,
    "mirrorlib": _mirrorlib,
    "torch": _torch,
    "device": _device,
    "accelerate": _accelerate,
    "disk: demonstrations": _demonstrations_disk,
    "disk: runs": _runs_disk,
    "MLflow": _mlflow,
}
