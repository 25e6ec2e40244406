"""What the comparisons with peers share: fresh processes that take turns, and what they report.

Each sample is a process of its own (the script again, with `--child`), so that no implementation
inherits another's allocator, threads or compiled kernels. A round runs every implementation once,
in an order that turns from round to round, and the machine's matmul rate: ratios and shares of
that ceiling are taken within a round, then their median over rounds. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

CEILING = "matmul ceiling"
ENOUGH = 0.2
"""Seconds of calls in one sample, where a single call takes less."""
Job = dict[str, Any]
Sample = dict[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of both scripts."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, help="file for all samples and the summary")
    options.add_argument("--only", default="", help="expression that names to measure contain")
    options.add_argument(
        "--memory-limit",
        type=float,
        default=None if torch.cuda.is_available() else 8.0,
        help="GiB that a call may take above its inputs (default: 8; all of a GPU's)",
    )
    options.add_argument("--time-limit", type=float, default=900.0, help="seconds a process")
    options.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return options


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sample(
    call: Callable[[], object], inputs: Sequence[torch.Tensor], limit: float | None
) -> Sample:
    """Seconds a call, wall and CPU, and the peak of memory in bytes above what was held before.

    One call warms up, and what it left is given back; then calls follow until ENOUGH seconds have
    passed, at least one, each without the inputs' gradients of the one before. limit: GiB, above
    which a call fails. On a GPU the wall time is between two CUDA events and the memory is that of
    the GPU.
    """
    _limit_memory(limit)
    call()
    _forget_gradients(inputs)
    baseline = _reset_peak()
    times: list[tuple[float, float]] = []
    while sum(wall for wall, _ in times) < ENOUGH:
        _forget_gradients(inputs)
        times.append(_seconds(call))
    memory = max(_peak() - baseline, 0)
    _limit_memory(None)
    wall, cpu = (statistics.fmean(of) for of in zip(*times, strict=True))
    return {"wall": wall, "cpu": cpu, "memory": memory, "calls": len(times)}


def ceiling(dtype: torch.dtype) -> Sample:
    """Best rate of a product in flop/s: torch's own and, on a CPU, within our scoped backend."""
    size, inner = (8192, 4096) if device().type == "cuda" else (2048, 1024)
    x = torch.rand(size, inner, device=device()).to(dtype)

    def rate() -> float:
        x @ x.T
        return 2 * size**2 * inner / min(_seconds(lambda: x @ x.T)[0] for _ in range(4))

    rates = {"default": rate()}
    if device().type == "cpu":
        from mirrorlib_objectives.matmul import fast_matmul

        with fast_matmul(size**2 * inner):
            rates["scoped backend"] = rate()
    return {"rate": max(rates.values()), "rates": rates, "threads": torch.get_num_threads()}


def answer(work: Callable[[], Sample]) -> None:
    """The child's last line: what `work` returns, or why there is nothing."""
    try:
        found = work()
    except ImportError as error:
        found = {"skipped": f"not installed ({error})"}
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        found = {"skipped": "needs more than the memory limit"}
    print(json.dumps(found))


def relative_error(values: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """|values - exact| / |exact| over all tensors, in float64."""
    found, truth = (torch.cat([x.double().cpu().flatten() for x in of]) for of in (values, exact))
    return float((found - truth).norm() / truth.norm())


@dataclass(frozen=True)
class Group:
    """What is compared with one another: implementations of one thing at one size.

    jobs: each with its own `name`. flops: least work of a call, unless a sample says its own under
    `flops`; its `columns` are put beside ours. peers: column -> name of a peer.
    """

    heading: str
    jobs: Sequence[Job]
    flops: float
    peers: Mapping[str, str]


@dataclass
class Turns:
    """samples: name -> one per round. skipped: name -> why."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def compare(script: str, groups: Sequence[Group], options: argparse.Namespace) -> None:
    """Run all groups, print a table of each and save what `--json` asks for."""
    tables: dict[str, object] = {}
    chosen = [[j for j in group.jobs if re.search(options.only, j["name"])] for group in groups]
    with tqdm(total=options.rounds * sum(1 + len(jobs) for jobs in chosen), smoothing=0) as bar:
        for group, jobs in zip(groups, chosen, strict=True):
            turns = _take_turns(script, [{**group.jobs[0], "name": CEILING}, *jobs], options, bar)
            rows = [_row(turns, j["name"], group) for j in jobs if j["name"] in turns.samples]
            _report(turns, rows, group.heading)
            tables[group.heading] = {**asdict(turns), "rows": rows}
            _save(options.json, tables)


def _take_turns(script: str, jobs: Sequence[Job], options: argparse.Namespace, bar: tqdm) -> Turns:
    """Every job once a round, each in a fresh process; a job that fails once has no more turns.

    The children find the round's number under `round`.
    """
    turns = Turns()
    for number in range(options.rounds):
        shift = number % len(jobs)
        for job in [*jobs[shift:], *jobs[:shift]]:
            name = job["name"]
            bar.set_postfix_str(f"round {number}, {name}")
            if name not in turns.skipped:
                found = _run({**job, "round": number}, script, options)
                if "skipped" in found:
                    turns.skipped[name] = found["skipped"]
                    turns.samples.pop(name, None)
                else:
                    turns.samples.setdefault(name, []).append(found)
            bar.update()
    return turns


def _run(job: Job, script: str, options: argparse.Namespace) -> Sample:
    """What the script's child answers to a job; `skipped` says why where it gave none."""
    command = [sys.executable, script, "--child", json.dumps(job)]
    if options.memory_limit is not None:
        command += ["--memory-limit", str(options.memory_limit)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=options.time_limit)
    except subprocess.TimeoutExpired:
        return {"skipped": f"took more than {options.time_limit:g} s"}
    if ended.returncode == -signal.SIGKILL:
        return {"skipped": "killed, as for memory"}
    if ended.returncode:
        return {"skipped": f"failed: {(ended.stderr.strip() or 'no message').splitlines()[-1]}"}
    answered: Sample = json.loads(ended.stdout.splitlines()[-1])
    return answered


def _row(turns: Turns, name: str, group: Group) -> dict[str, str]:
    samples, tops = turns.samples[name], turns.samples.get(CEILING, [])
    walls, cpus = ([sample[of] for sample in samples] for of in ("wall", "cpu"))
    flops = samples[0].get("flops", group.flops)
    shares = [flops / wall / top["rate"] for wall, top in zip(walls, tops, strict=False)]
    row = {
        "": name,
        "wall s": f"{statistics.median(walls):.3g}",
        "least": f"{min(walls):.3g}",
        "CPU s": f"{statistics.median(cpus):.3g}",
        "least CPU": f"{min(cpus):.3g}",
        "MB": f"{statistics.median(sample['memory'] for sample in samples) / 1e6:.0f}",
        "error": f"{samples[0]['error']:.1e}" if "error" in samples[0] else "",
        "of ceiling": f"{statistics.median(shares):.2f}" if shares else "",
    }
    row |= samples[0].get("columns", {})
    for column, peer in group.peers.items():
        for of, unit in (("wall", "time"), ("memory", "memory")):
            theirs = [sample[of] for sample in turns.samples.get(peer, [])]
            ratios = [own[of] / their for own, their in zip(samples, theirs, strict=False) if their]
            row[f"{unit} / {column}"] = f"{statistics.median(ratios):.2f}" if ratios else ""
    return row


def _report(turns: Turns, rows: Sequence[Mapping[str, str]], heading: str) -> None:
    """The table of one group, the ceiling, what was left out and why."""
    print(f"\n### {heading}\n")
    if rows:
        head = list(rows[0])
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row.values()) for row in rows)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")
    tops = turns.samples.get(CEILING, [])
    for kind in tops[0]["rates"] if tops else ():
        rates = [top["rates"][kind] / 1e9 for top in tops]
        print(f"- Matmul, {kind}: {min(rates):.0f} to {max(rates):.0f} Gflop/s")
    for name, why in turns.skipped.items():
        print(f"- Left out: {name}: {why}")
    sys.stdout.flush()


def _save(path: Path | None, tables: Mapping[str, object]) -> None:
    if path is not None:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        machine = {"cores": len(os.sched_getaffinity(0)), "gpu": gpu, "torch": torch.__version__}
        path.write_text(json.dumps({"machine": machine, "tables": tables}, indent=1))


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    if device().type == "cpu":
        call()
        return time.perf_counter() - wall, time.process_time() - cpu
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, time.process_time() - cpu


def _forget_gradients(inputs: Sequence[torch.Tensor]) -> None:
    for tensor in inputs:
        tensor.grad = None


def _limit_memory(gib: float | None) -> None:
    """Above what is held now; None takes the limit off."""
    if device().type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        share = 1.0 if gib is None else (gib * 2**30 + torch.cuda.memory_allocated()) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
        return
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard if gib is None else held + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _out_of_memory(error: BaseException) -> bool:
    signs = ("can't allocate memory", "bad_alloc", "out of memory", "could not create a memory")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _reset_peak() -> int:
    """Give freed memory back, forget the peak so far. Returns the bytes held now."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
