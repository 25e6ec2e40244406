"""A thin layer over MLflow: a run is recorded as it went, and a server that is down never stops it.

Our own rather than Accelerate's tracker, which records crashed runs as finished and drops tensors.
Every metric is also kept in the run folder's `metrics.jsonl`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from mirrorlib.errors import UserError

FLUSH_SECONDS = 10.0
RETRY_SECONDS = 60.0
PARAMETER_LENGTH = 6000
BATCH = 900
"""Metrics and parameters in one request: MLflow takes at most 1,000 and 100."""

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")

Operation = Callable[[Any, str], None]


class Tracker:
    """One MLflow run. Everything is queued and sent in order; what cannot be sent waits."""

    def __init__(
        self,
        folder: Path,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> None:
        self.folder, self.experiment, self.name, self.tags = folder, experiment, name, dict(tags)
        self.run_id: str | None = None
        self._client: Any = None
        self._queue: deque[Operation] = deque()
        self._metrics: list[tuple[str, float, int, int]] = []
        self._file = (folder / "metrics.jsonl").open("a")
        self._next_try = 0.0
        self._next_flush = time.monotonic()
        flat = [(k, str(v)[:PARAMETER_LENGTH]) for k, v in _flatten(parameters)]
        for start in range(0, len(flat), 100):
            self._queue.append(_log_parameters(flat[start : start + 100]))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queues scalars; sends at most every FLUSH_SECONDS."""
        now = int(time.time() * 1000)
        self._file.write(json.dumps({"step": step, "time": now} | dict(metrics)) + "\n")
        self._file.flush()
        self._metrics += [(name, float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() >= self._next_flush:
            self.flush()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Queues a file or a folder's files."""
        if path.is_dir():
            self._queue.append(lambda client, run: client.log_artifacts(run, str(path), folder))
        else:
            self._queue.append(lambda client, run: client.log_artifact(run, str(path), folder))

    def flush(self) -> bool:
        """Sends what waits. False where the server did not take it all."""
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        for start in range(0, len(self._metrics), BATCH):
            self._queue.append(_log_metrics(self._metrics[start : start + BATCH]))
        self._metrics.clear()
        if time.monotonic() < self._next_try:
            return False
        try:
            if self.run_id is None:
                self._connect()
            while self._queue:
                self._send(self._queue[0])
                self._queue.popleft()
        except Exception as error:  # whatever MLflow or its store raises must not stop a run
            if not self._next_try:
                print(
                    f"mirrorlib: MLflow cannot be reached ({_first_line(error)}); the run "
                    f"goes on, metrics wait in {self.folder / 'metrics.jsonl'}",
                    file=sys.stderr,
                )
            self._next_try = time.monotonic() + RETRY_SECONDS
            return False
        return True

    def close(self, status: str) -> bool:
        """Sends the rest and sets MLflow's status: FINISHED, FAILED or KILLED."""
        self._next_try = min(self._next_try, time.monotonic())
        self._queue.append(lambda client, run: client.set_terminated(run, status))
        sent = self.flush()
        self._file.close()
        return sent

    def _send(self, operation: Operation) -> None:
        """What MLflow will never take (a name it does not allow, a file it cannot keep) is told
        and dropped; whatever may go through later is raised."""
        from mlflow.exceptions import MlflowException

        try:
            operation(self._client, self.run_id or "")
        except (MlflowException, PermissionError, FileNotFoundError, NotADirectoryError) as error:
            if isinstance(error, MlflowException) and error.error_code not in REFUSALS:
                raise
            print(f"mirrorlib: MLflow refused something: {_first_line(error)}", file=sys.stderr)

    def _connect(self) -> None:
        from mlflow import MlflowClient

        prepare_store()
        self._client = MlflowClient()
        experiment = experiment_id(self._client, self.experiment)
        run = self._client.create_run(experiment, run_name=self.name, tags=self.tags)
        self.run_id = run.info.run_id


@contextmanager
def track(tracker: Tracker | None) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Yields a function that logs. The run ends as the block did: FINISHED, KILLED on Ctrl-C,
    FAILED on anything else. None: nothing is tracked (another process does)."""
    if tracker is None:
        yield lambda metrics, step: None
        return
    status = "FAILED"
    try:
        yield tracker.log
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if not tracker.close(status):
            print(
                f"mirrorlib: not all of this run reached MLflow; its metrics are in "
                f"{tracker.folder / 'metrics.jsonl'}",
                file=sys.stderr,
            )


def prepare_store() -> None:
    """Creates a local SQLite store once, under a lock: MLflow's own creation races."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith("sqlite:///"):
        return
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with FileLock(f"{uri.removeprefix('sqlite:///')}.lock"):
        mlflow.MlflowClient().search_experiments(max_results=1)


def experiment_id(client: Any, name: str) -> str:
    """The experiment's id; created where it does not exist yet."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def serve_ui(port: int, experiment: str = "mirrorlib") -> None:
    """Serves MLflow's UI until Ctrl-C, and prints the link at which runs are compared."""
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = mlflow.get_tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
    try:
        prepare_store()
        number = experiment_id(mlflow.MlflowClient(), experiment)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{uri}: cannot be opened ({_first_line(error)}); check MLFLOW_TRACKING_URI"
        ) from error
    print(f"compare runs at {base}/#/experiments/{number}/runs?workflowType=machine_learning")
    if remote:
        return
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port)]
    server = subprocess.Popen([*command, "--backend-store-uri", uri])
    try:
        status = server.wait()
    except KeyboardInterrupt:  # the way to leave
        server.wait()
        return
    if status:
        raise UserError(f"the MLflow server ended; is port {port} in use? choose another: --port")


def git_sha() -> str | None:
    """The commit of the checkout this code runs from, None outside one."""
    package = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(package.parent), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    top, sha = result.stdout.split("\n")[:2]
    return sha if Path(top) == package.parent else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _log_parameters(pairs: list[tuple[str, str]]) -> Operation:
    from mlflow.entities import Param

    return lambda client, run: client.log_batch(run, params=[Param(*pair) for pair in pairs])


def _log_metrics(rows: list[tuple[str, float, int, int]]) -> Operation:
    from mlflow.entities import Metric

    return lambda client, run: client.log_batch(run, metrics=[Metric(*row) for row in rows])
