"""Every broken episode of a recipe's source, or of a folder, at once: `mirrorlib data check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mirrorlib.data.cache import MENDS, SPLITS, Cache
from mirrorlib.data.recording import in_processes
from mirrorlib.errors import ComponentError, DemonstrationFailed, UserError
from mirrorlib.interfaces import EpisodeKey, Source
from mirrorlib.plugins import summary
from mirrorlib.processes import own_cores
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import Offer, build_section, installed
from mirrorlib.yamlfile import plain_document


@dataclass(frozen=True)
class Target:
    """What is checked, and by how many processes. cache: of a recipe."""

    source: Source
    workers: int
    cache: Cache | None = None


def check(target: str, overrides: Sequence[str] = (), source: str | None = None) -> None:
    """Reads every episode whole and verifies what a recipe's cache holds; prints a line for each
    that is broken, then how many were looked at.

    target: a recipe, or a folder of demonstrations. overrides: `a.b=c`, of the recipe or the
    folder's source. source: its name, where several are installed that read a folder. Raises
    UserError where anything is broken, and where nothing could be checked.
    """
    opened = _folder(target, overrides, source) if Path(target).is_dir() else None
    opened = opened or _recipe(target, overrides)
    keys, problems = _keys(opened.source)
    looked = _read(opened, keys)
    broken = [*problems, *(looked[key] for key in keys if looked.get(key))]
    read = sum(line is not None for line in looked.values())
    unread = [str(key) for key in keys if key not in looked]
    cache = None if problems else opened.cache  # which needs every split
    damaged, changed = cache.faults() if cache else ({}, [])
    for line in (*broken, *damaged.values()):
        print(line)
    print(f"{read} of {len(keys)} episodes are read from files; {len(broken)} problems")
    if cache:
        print(
            f"{cache.folder}: {len(damaged)} damaged; {len(changed)} to be read anew, as "
            "the source's files have changed"
        )
    elif not (read or broken or unread):
        raise UserError(f"{target}: no episode was found that is read from files")
    if wrong := list(_wrong(opened, len(broken), len(damaged), unread)):
        raise UserError(*(f"{target}: {line}" for line in wrong))


def _wrong(opened: Target, broken: int, damaged: int, unread: Sequence[str]) -> Iterator[str]:
    """What is wrong in all, and what to do."""
    if broken or damaged:
        yield (
            f"{broken} problems with the source, {damaged} damaged recordings: mend each as its "
            f"line says; or {MENDS}"
        )
    if unread:
        yield (
            f"a reading process died, and {len(unread)} episodes were not read, among the first of "
            f"which is what ended it ({', '.join(unread[: opened.workers])}); if memory ran out, "
            "check a recipe with fewer data.workers"
        )


def _recipe(target: str, overrides: Sequence[str]) -> Target:
    from mirrorlib.assembly import executor_view, open_cache, recording_workers

    recipe = load_recipe(target, overrides)
    source: Source = build_section("source", recipe.source)
    cache = open_cache(recipe, source, executor_view(recipe, source))
    return Target(source, recording_workers(recipe), cache)


def _folder(target: str, overrides: Sequence[str], name: str | None) -> Target:
    document = plain_document({"root": target}, "source")
    for number, override in enumerate(overrides):
        document.override(number, override)
    document.raise_problems()
    offers = {str(offer): offer for offer in installed().offers("source") if _reads_folder(offer)}
    if name is None and len(offers) != 1:
        told = ", ".join(offers) or "none is installed"
        raise UserError(f"{target}: which source reads it? Say --source NAME ({told})")
    name = name or next(iter(offers.values())).component.name
    return Target(installed().build("source", name, **document.value), own_cores())


def _reads_folder(offer: Offer) -> bool:
    try:
        return "root" in offer.config_model().model_fields
    except ComponentError:
        return False


def _keys(source: Source) -> tuple[list[EpisodeKey], list[str]]:
    """The episodes of all splits, and a line for each split that cannot be listed. Raises UserError
    where none can."""
    keys, problems = list[EpisodeKey](), list[str]()
    for split in SPLITS:
        try:
            keys += source.keys(split)
        except Exception as error:
            problems.append(_line(split, error))
    if len(problems) == len(SPLITS):
        raise UserError(*dict.fromkeys(problems))
    return keys, list(dict.fromkeys(problems))


def _read(target: Target, keys: Sequence[EpisodeKey]) -> dict[EpisodeKey, str | None]:
    """What `read_whole` says of each, but for those that a process died over."""
    found: dict[EpisodeKey, str | None] = {}
    jobs = [(key,) for key in keys]
    with (
        suppress(BrokenProcessPool),
        closing(in_processes(read_whole, jobs, target.workers, target.source)) as done,
    ):
        for (key,), future in tqdm(done, "reading", len(jobs), unit="ep"):
            with suppress(BrokenProcessPool):
                found[key] = future.result()
    return found


def read_whole(source: Source, key: EpisodeKey) -> str | None:
    """What is wrong with an episode of which every picture is decoded; "" if nothing, None if it is
    read from no file."""
    try:
        if not source.stamp(key):
            return None
        episode = source.episode(key)
    except DemonstrationFailed:
        return ""
    except Exception as error:
        return _line(key, error)
    cameras = (*episode.rgb.values(), *episode.depth.values())
    problems = [line for frames in cameras for line in _undecodable(key, frames)]
    if not problems:
        return ""
    more = f" (and {len(problems) - 1} more pictures of the episode)" if problems[1:] else ""
    return problems[0] + more


def _undecodable(key: EpisodeKey, frames: Any) -> Iterator[str]:
    """A line for each of a camera's frames that cannot be decoded. One at a time is in memory."""
    for row in range(len(frames)):
        try:
            frames[row]
        except Exception as error:
            yield _line(key, error)


def _line(where: object, error: Exception) -> str:
    """A UserError says itself where."""
    return " ".join(error.lines) if isinstance(error, UserError) else f"{where}: {summary(error)}"
