"""Saves and loads that are killed, run into errors, read damaged files, or are interrupted."""

import errno
import os
import re

import numpy as np
import pytest
import saves
from states import SAFETENSORS

import fastopt

pytestmark = pytest.mark.slow


@pytest.fixture(params=[".npz", SAFETENSORS])
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def state(path, rng):
    """A state that the file holds."""
    state = {"step_count": 2**40, "lr": 0.1, "nan": float("nan"), "text": "µ", "none": None, "state": {
        "w": {"m": rng.standard_normal((16, 20), dtype=np.float32), "v": rng.standard_normal(300)},
        0: {"m": np.arange(7), "v": np.zeros((0, 3), np.float16)}, "µ": {"m": np.array(True)}}}
    fastopt.save_state(path, state)
    return state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_kills(path, rng, trials, figures):
    """The file holds the state that the killed process reported last or the next one, complete."""
    counts = saves.kills(path, trials(200), rng)
    figures(**counts)
    assert counts["temporaries"] > counts["kills"] // 10, "too few processes were killed during a save"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_injected_errors(path, number, figures):
    error = OSError(number, "injected")
    counts = saves.system_errors(path, error)
    figures(system_calls=sum(counts.values()), writes=saves.device_errors(path, error)["errors"], **counts)
    assert counts == {"errors": 6, "errors_after_the_rename": 2, "tolerated": 2}


def test_limits_of_the_file_size(path, rng, trials, figures):
    """The operating system lets the file grow up to its first byte, its last, or any between them."""
    fastopt.save_state(path, saves.numbered(2))
    size = path.stat().st_size
    figures(**saves.full_disk(path, [0, 1, size - 1, *rng.integers(2, size - 1, trials(300)).tolist()]))


def test_truncation_at_every_byte(path, state, figures):
    whole = path.read_bytes()
    counts = saves.damage(path, state, (whole[:size] for size in range(len(whole))))
    figures(**counts)
    assert counts == {"refused": len(whole), "identical": 0}


def test_missing_parts(path, state, rng, trials, figures):
    whole = path.read_bytes()
    parts = [sorted(rng.integers(0, len(whole) + 1, 2)) for _ in range(trials(4000))]
    figures(**saves.damage(path, state, (whole[:start] + whole[end:] for start, end in parts)))


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_flipped_bits(path, state, bits, rng, trials, figures):
    count = trials(8000)
    counts = saves.damage(path, state, saves.flipped(path.read_bytes(), count, rng, bits))
    figures(**counts)
    assert counts["refused"] > 0.7 * count


def test_large_numbers_in_headers(path, state, figures):
    """Each number in the headers' text is replaced: no large allocation, and no exception of another type.

    In a .npz file an array's header is interpreted before its CRC-32 is checked.
    """
    whole = path.read_bytes()
    places = [match.span() for match in re.finditer(rb"(?<=[\[(, :])\d+(?=[,)\]}])", whole)]
    assert len(places) > 10

    def changed():
        for start, end in places:
            for number in (10**15, 2**31, 2**32, 2**62, 2**63, 2**64, -1, 0):
                content = whole[:start] + str(number).encode() + whole[end:]
                if path.suffix == ".safetensors":   # begins with the length of its header
                    length = int.from_bytes(whole[:8], "little") + len(content) - len(whole)
                    content = length.to_bytes(8, "little") + content[8:]
                yield content

    counts = saves.damage(path, state, changed())
    figures(**counts)
    assert counts["refused"] > 20 * counts["identical"]


def test_interrupts_before_every_bytecode_of_a_save(path, figures):
    counts = saves.interrupted_saves(path, 1)
    figures(**counts)
    assert counts["new"]
    assert counts["old"] + counts["new"] == counts["bytecodes"]


def test_interrupts_before_every_bytecode_of_a_load(path, figures):
    counts = saves.interrupted_loads(path, 1)
    figures(**counts)
    assert counts["interrupts"] > 0.98 * counts["bytecodes"]
