"""What a run trained and was tested on, as MLflow lists datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mirrorlib.data.cache import Cache
from mirrorlib.interfaces import Split


def dataset_inputs(cache: Cache, name: str, splits: Sequence[Split]) -> list[Any]:
    """An mlflow.entities.DatasetInput for each split, named NAME-SPLIT, its use the split.

    name: the source's. The digest is the cache folder's, which changes with the source's
    fingerprint and the layout; MLflow tells datasets apart by name and digest. The schema lists
    what is kept of an episode; the profile counts episodes, and demonstrations that failed.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = cache.folder.name.rpartition("-")[2]
    return [
        DatasetInput(
            Dataset(
                name=f"{name}-{split}",
                digest=digest,
                source_type="local",
                source=json.dumps({"uri": str(cache.folder / split)}),
                schema=json.dumps({"mlflow_colspec": _columns(cache)}),
                profile=json.dumps(_profile(cache, split)),
            ),
            [InputTag("mlflow.data.context", split)],
        )
        for split in splits
    ]


def _profile(cache: Cache, split: Split) -> dict[str, Any]:
    episodes = cache.episodes(split)
    return {
        "episodes": len(episodes),
        "instructions": len({episode.instruction for episode in episodes}),
        "keyframe_steps": sum(episode.steps for episode in episodes),
        "failed_demonstrations_dropped": cache.failures(split),
        "layout": asdict(cache.layout),
    }


def _columns(cache: Cache) -> list[dict[str, Any]]:
    layout = cache.layout
    columns = [(f"clip/{camera}", f"{layout.clip_frames} frames") for camera in layout.clip_cameras]
    for camera in layout.step_cameras:
        columns += [(f"rgb/{camera}", "image"), (f"depth/{camera}", "image")]
    columns += [("instruction", "string"), ("proprioception", "tensor"), ("action", "tensor")]
    return [{"name": name, "type": type_, "required": True} for name, type_ in columns]
