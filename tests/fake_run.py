"""Stands in for `python -m mirrorlib.run` in a suite: LOG LABEL RECORD TEXT.

Notes in the log what happens to it. `LABEL.behaviour` in the working directory may say `fail`,
`forget` (leaves no record) or `wait` (until that file has gone); SIGTERM ends it like a run.
"""

import os
import signal
import sys
import time
from pathlib import Path

log, label, record, text = sys.argv[1:]


def note(what: str) -> None:
    with open(log, "a") as file:
        file.write(f"{what} {label} {os.getpid()}\n")


def stop(*_: object) -> None:
    note("stopped")
    sys.exit(130)


signal.signal(signal.SIGTERM, stop)
behaviour = Path(f"{label}.behaviour")
told = behaviour.read_text() if behaviour.exists() else ""
note("began")
deadline = time.monotonic() + 100
while told == "wait" and behaviour.exists() and time.monotonic() < deadline:
    time.sleep(0.01)
if told == "fail":
    sys.exit(2)
if told != "forget":
    path = Path(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
note("ended")
