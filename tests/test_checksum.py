"""Recorded files that are damaged, cut or in another's place."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import episode

from mirrorlib.data.checksum import sealed, verified
from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.interfaces import EpisodeKey

KEY = EpisodeKey("train", "push", 1, 0)
LAYOUT = Layout(clip_frames=2, clip_cameras=("front",), step_cameras=("wrist", "front"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train" / "push" / "1-0.safetensors"
    write_episode(path, episode(KEY), LAYOUT, stamp="as it was")
    return path


def test_the_checksum_is_of_the_whole_file(file: Path) -> None:
    assert verified(file) == "as it was"
    content = file.read_bytes()
    (told,) = re.findall(rb'checksum\\": \\"(\w{8})\\"', content)
    assert content.count(told) == 1
    assert int(told, 16) == zlib.crc32(content.replace(told, b"00000000"))


def test_one_flipped_bit_anywhere_is_found(file: Path) -> None:
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    places = [*range(60), *rng.choice(len(content), 200), len(content) - 1]
    for place, bit in zip(places, rng.integers(0, 8, len(places)), strict=True):
        content[place] ^= 1 << bit
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            verified(file)
        assert caught.value.lines[0].startswith(f"{file}: a damaged file of recorded data (")
        content[place] ^= 1 << bit
    file.write_bytes(content)
    verified(file)


def test_cut_and_lengthened_files_are_found(file: Path) -> None:
    content = file.read_bytes()
    for harmed in (b"", content[:5], content[:300], content[:-1], content[:-64], content + b"\0"):
        file.write_bytes(harmed)
        with pytest.raises(UserError, match="a damaged file"):
            verified(file)
        if len(harmed) < len(content):
            with pytest.raises(UserError, match=r"not a whole recorded episode .*RECIPE --rebuild"):
                StoredEpisode(file)
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        verified(file)


def test_files_that_changed_places_are_found(file: Path) -> None:
    other = file.with_name("1-1.safetensors")
    write_episode(other, episode(KEY), LAYOUT)
    file.rename(file.with_name("kept"))
    other.rename(file)
    with pytest.raises(UserError, match=r"it was written as train/push/1-1\.safetensors"):
        verified(file)


def test_a_text_like_a_checksum_is_no_checksum(file: Path) -> None:
    demonstration = episode(KEY)
    for text in ('"checksum": "00000000"', r"\"checksum\": \"00000000"):
        demonstration.descriptions[0] = text  # type: ignore[index]
        write_episode(file, replace(demonstration, task=text), LAYOUT)
        verified(file)
    assert StoredEpisode(file).descriptions == demonstration.descriptions


def test_a_header_that_is_no_episodes_is_found(file: Path) -> None:
    seal = json.dumps({"checksum": "0" * 8})
    headers = ([seal], {"__metadata__": None, "seal": seal}, {"__metadata__": seal, "a": None})
    for header in headers:
        text = json.dumps(header).encode()
        file.write_bytes(sealed(len(text).to_bytes(8, "little") + text))
        with pytest.raises(UserError, match="a damaged file"):
            verified(file)
        with pytest.raises(UserError, match="not a whole recorded episode"):
            StoredEpisode(file)
