"""MLflow's pages, opened where runs are compared."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mirrorlib.errors import UserError
from mirrorlib.tracking import experiment_id, first_line, prepare_store

VIEW = "mirrorlib-arms"
"""The name under which the experiment keeps what the page of curves shows."""
TABLE = ("tags.`arm`", "tags.`seed`", "metrics.`eval/success_rate`",
         "metrics.`eval/recognition_accuracy`", "attributes.`Dataset`")  # fmt: skip
CHARTS = "^train/(observer|executor)/loss$"
"""Which curves are drawn first: a search that the page shows, and that can be cleared. These two
mean the same in every arm, unlike the alignment's loss and the sum."""
HOST = "127.0.0.1"


def serve_ui(port: int, experiment: str = "mirrorlib") -> None:
    """Serves MLflow's UI until Ctrl-C. Once it answers, prints the links at which runs are listed
    and their curves are drawn, one for each arm: the mean of its seeds.

    Where MLFLOW_TRACKING_URI names a server, prints its links and ends. Raises UserError.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = mlflow.get_tracking_uri()
    print(f"opening {uri}; the links follow once MLflow answers", flush=True)
    try:
        prepare_store()
        client = mlflow.MlflowClient()
        number = experiment_id(client, experiment)
        client.set_experiment_tag(number, f"mlflow.sharedViewState.{VIEW}", json.dumps(_view()))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{uri}: cannot be opened ({first_line(error)}); check MLFLOW_TRACKING_URI"
        ) from error
    if uri.startswith(("http://", "https://")):
        print(_links(uri.rstrip("/"), number))
        return
    with _server(port, uri) as server:
        base = f"http://{HOST}:{port}"
        while server.poll() is None and not _answers(base):
            time.sleep(0.2)
        if server.poll() is None:
            print(_links(base, number), flush=True)
        if server.wait():
            raise UserError("the MLflow server ended; what it says is above")


def _links(base: str, number: str) -> str:
    page = f"{base}/#/experiments/{number}/runs?workflowType=machine_learning"
    page += f"&viewStateShareKey={VIEW}"
    return (
        f"runs, by arm:             {page}\ncurves, one for each arm: {page}&compareRunsMode=CHART"
    )


def _view() -> dict[str, Any]:
    """As MLflow's own "share" keeps it: grouped by arm, all runs, the columns that say most."""
    by_arm = {"mode": "tag", "groupByData": "arm"}
    return {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [by_arm]},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "chartsSearchFilter": CHARTS,
        "selectedColumns": list(TABLE),
    }


@contextmanager
def _server(port: int, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server, in one process: its usual four kill each other on a busy machine. All that
    it starts ends with the block, which Ctrl-C ends, too."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} is taken; choose another: --port") from error
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--workers", "1", "--backend-store-uri", uri],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        yield server
    except KeyboardInterrupt:  # the way to leave
        return
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _answers(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
