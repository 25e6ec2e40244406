"""A thin layer over MLflow: a run is recorded as it went, and a server that is down never stops it.

Our own rather than Accelerate's tracker, which records crashed runs as finished and drops tensors.
Every metric is also kept in the run folder: `metrics.jsonl`, and `system.jsonl` of the machine.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from mirrorlib.errors import UserError
from mirrorlib.files import write_whole
from mirrorlib.journal import Journal, Row
from mirrorlib.recipe import flatten

FLUSH_SECONDS = 10.0
RETRY_SECONDS = 60.0
PARAMETER_LENGTH = 6000
PARAMETERS_SENT = 100
"""In one request; MLflow takes no more."""
METRICS, SYSTEM = "metrics.jsonl", "system.jsonl"

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

MARKS = {"train": "train/loss", "system": "system/system_memory_usage_megabytes"}
"""A metric that every row of its kind has: up to its last step MLflow has the others, too."""
UNREADABLE = (PermissionError, FileNotFoundError, NotADirectoryError)
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")

Operation = Callable[[Any, str], None]


class Tracker:
    """One MLflow run. Everything is queued and sent in order; what cannot be sent waits.

    Which MLflow run it is stays in the folder's `mlflow.json`, so that a run which continues
    there continues in MLflow, too: `continued_from` is the step after which it logs anew. What an
    earlier process logged up to then and could not send is sent.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
        continued_from: int = 0,
    ) -> None:
        self.folder, self.experiment, self.name, self.tags = folder, experiment, name, dict(tags)
        self.run_id: str | None = None
        self._parameters = [(k, str(v)[:PARAMETER_LENGTH]) for k, v in flatten(parameters)]
        self._client: Any = None
        self._queue: deque[Operation] = deque()
        self._metrics = Journal(
            folder / METRICS, lambda row: "train/loss" in row and row["step"] <= continued_from
        )
        self._system = Journal(folder / SYSTEM, lambda row: True)
        self._sent_steps, self._sent_values = dict[str, int](), dict[str, float]()
        self.sent = False
        """Whether MLflow took everything, known once `close` was called."""
        self._next_try = 0.0
        self._next_flush = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queues scalars; sends at most every FLUSH_SECONDS."""
        self._metrics.add(metrics, step)
        if time.monotonic() >= self._next_flush:
            self.flush()

    def log_system(self, metrics: Mapping[str, float]) -> None:
        """Queues a sample of `system/...`, the next in number; one other thread may call this."""
        self._system.add(metrics, self._system.last_step + 1)

    def inputs(self, datasets: Sequence[Any]) -> None:
        """Queues mlflow.entities.DatasetInput. One that the run has already stays one."""
        self._queue.append(lambda client, run: client.log_inputs(run, list(datasets)))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Queues a file or a folder's files; one of that name is replaced."""
        if path.is_dir():
            self._queue.append(lambda client, run: client.log_artifacts(run, str(path), folder))
        else:
            self._queue.append(lambda client, run: client.log_artifact(run, str(path), folder))

    def made_artifact(self, make: Callable[[Path], object], folder: str) -> None:
        """Queues a folder that `make` fills when it is sent; nothing of it stays on this disk."""

        def send(client: Any, run: str) -> None:
            with TemporaryDirectory() as parent:
                made = Path(parent) / folder
                made.mkdir()
                make(made)
                client.log_artifacts(run, str(made), folder)

        self._queue.append(send)

    def flush(self) -> bool:
        """Sends what waits. False where the server did not take it all."""
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        if time.monotonic() < self._next_try:
            return False
        try:
            if self.run_id is None:
                self._connect()
            for journal in (self._metrics, self._system):
                while rows := journal.next():
                    self._send(self._log_new(rows))
                    journal.sent(len(rows))
            while self._queue:
                self._send(self._queue[0])
                self._queue.popleft()
        except Exception as error:  # whatever MLflow or its store raises must not stop a run
            if not self._next_try:
                print(
                    f"mirrorlib: MLflow cannot be reached ({first_line(error)}); the run "
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
        self.sent = self.flush()
        self._metrics.close()
        self._system.close()
        return self.sent

    def _send(self, operation: Operation) -> None:
        """What MLflow will never take (a name it does not allow, a file it cannot keep) is told
        and dropped; whatever may go through later is raised."""
        from mlflow.exceptions import MlflowException

        try:
            operation(self._client, self.run_id or "")
        except (MlflowException, UserError, *UNREADABLE) as error:
            if isinstance(error, MlflowException) and error.error_code not in REFUSALS:
                raise
            print(f"mirrorlib: MLflow refused something: {first_line(error)}", file=sys.stderr)

    def _log_new(self, rows: Sequence[Row]) -> Operation:
        new = [metric for metric in _metrics(rows) if not self._has(metric)]
        return lambda client, run: client.log_batch(run, metrics=new)

    def _has(self, metric: Any) -> bool:
        """Whether an earlier process sent it already."""
        kind = metric.key.partition("/")[0]
        if kind in MARKS:
            return bool(metric.step <= self._sent_steps.get(kind, -1))
        return bool(self._sent_values.get(metric.key) == metric.value)

    def _connect(self) -> None:
        """Opens the folder's MLflow run again, or a new one."""
        import mlflow
        from mlflow import MlflowClient

        prepare_store()
        client = self._client = MlflowClient()
        store, note = mlflow.get_tracking_uri(), self.folder / "mlflow.json"
        run = _known_run(client, store, note)
        if run is None:
            experiment = experiment_id(client, self.experiment)
            run = client.create_run(experiment, run_name=self.name, tags=self.tags)
            write_whole(note, json.dumps({"tracking_uri": store, "run_id": run.info.run_id}))
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            for name, value in self.tags.items() - run.data.tags.items():
                client.set_tag(run.info.run_id, name, value)
            self._sent_values = run.data.metrics
            for kind, mark in MARKS.items():
                history = client.get_metric_history(run.info.run_id, mark)
                self._sent_steps[kind] = max((metric.step for metric in history), default=-1)
        missing = [pair for pair in self._parameters if pair[0] not in run.data.params]
        for start in range(0, len(missing), PARAMETERS_SENT):
            _log_parameters(missing[start : start + PARAMETERS_SENT])(client, run.info.run_id)
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
        tracker.flush()
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


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _known_run(client: Any, store: str, note: Path) -> Any:
    """The MLflow run that an earlier process opened in this store, if it is still there."""
    from mlflow.exceptions import MlflowException

    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("tracking_uri") != store:
        return None
    try:
        run = client.get_run(known["run_id"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _log_parameters(pairs: Sequence[tuple[str, str]]) -> Operation:
    from mlflow.entities import Param

    return lambda client, run: client.log_batch(run, params=[Param(*pair) for pair in pairs])


def _metrics(rows: Sequence[Row]) -> list[Any]:
    """As MLflow takes them: a name it forbids is written otherwise."""
    from mlflow.entities import Metric

    return [
        Metric(re.sub(r"[^\w\-. :/]", "_", name), float(value), row["time"], row["step"])
        for row in rows
        for name, value in row.items()
        if name not in ("time", "step")
    ]
