"""Few functions lie between a command and the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MOST_FRAMES = 6


def test_few_frames_from_a_command_to_the_network(tmp_path):
    script = Path(__file__).parent.parent / "benchmarks" / "stack_frames.py"
    spec = importlib.util.spec_from_file_location("stack_frames", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.all_frames(tmp_path)
    assert set(found) == {"train", "map", "photo"}
    for command, frames in found.items():
        assert 2 <= len(frames) <= MOST_FRAMES, f"{command}: {frames}"
