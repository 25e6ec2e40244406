"""Which code, libraries and machine a number comes from."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from mirrorlib.recipe import Recipe


@dataclass(frozen=True)
class Code:
    """commit: None where the code is installed without one. versions: of distributions."""

    commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def code_in_use(recipe: Recipe) -> Code:
    """mirrorlib and the plugins that the recipe uses, as they are now."""
    return Code(git_sha(), used_versions(recipe))


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


def used_versions(recipe: Recipe) -> dict[str, str]:
    """The versions of mirrorlib and of every distribution whose components the recipe names."""
    return _versions(sorted({"mirrorlib", *(offer.distribution for offer in recipe.offers)}))


def library_versions(recipe: Recipe) -> dict[str, str]:
    """Python's version, and those of what the distributions in use stand on."""
    return {"python": platform.python_version()} | _versions(_requirements(recipe))


def describe_machine() -> str:
    """Processor, cores, memory and, where there is one, GPU: what cost depends on."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB{gpu}"


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _requirements(recipe: Recipe) -> list[str]:
    """What the distributions that were used stand on, each by its own metadata."""
    used = used_versions(recipe)
    lines = [line for name in used for line in requires(name) or () if "extra ==" not in line]
    names = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines}
    return sorted(names - used.keys())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
