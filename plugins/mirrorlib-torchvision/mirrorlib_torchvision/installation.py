"""Whether torchvision works beside torch. `r3d` does without."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version


def check_versions() -> str | None:
    """None where the installed torchvision was made for the installed torch, by their metadata,
    else one line that says what mends it."""
    try:
        torch = Version(version("torch"))
        torchvision = Version(version("torchvision"))
    except PackageNotFoundError as absent:
        return f"{absent.name} is not installed; {_cure(forced=_tagged())}"
    if unmet := _unmet(torch):
        found = f"torchvision {torchvision} wants {unmet}, not torch {torch}"
    elif torch.local != torchvision.local:
        found = f"torch {torch} and torchvision {torchvision} are wheels of two kinds"
    else:
        return None
    return f"{found}; {_cure(forced=_tagged())}"


def check_import() -> str | None:
    """None where torchvision imports, else one line that says what mends it."""
    try:
        import_module("torchvision")
    except Exception as error:  # a mismatched pair of wheels raises RuntimeError
        return f"torchvision does not import ({error}); {_cure(forced=True)}"
    return None


def _unmet(torch: Version) -> str | None:
    """torchvision's requirement that this torch does not meet."""
    for line in requires("torchvision") or ():
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == "torch" and applies:
            if requirement.specifier.contains(torch, prereleases=True):
                continue
            return f"torch{requirement.specifier}"
    return None


def _tagged() -> bool:
    """Whether one of the two has a local version such as `+cpu`. To pip that is newer than the
    same version without: `--upgrade` alone would keep it beside a default wheel."""
    found = []
    for name in ("torch", "torchvision"):
        try:
            found.append(Version(version(name)))
        except PackageNotFoundError:
            continue
    return any(installed.local for installed in found)


def _cure(forced: bool) -> str:
    options = "--upgrade --force-reinstall" if forced else "--upgrade"
    command = f"pip install {options} torch torchvision"
    return f"run `{command}`, both in one command and never `+cpu` beside a default wheel"
