"""bench/epoch.py: that its contenders train the same network, and its tables."""

import re

import epoch
import numpy as np
import pytest

SMALL = ["--widths", "16", "24", "--batch", "32", "--examples", "96", "--seconds", "0.001"]


@pytest.mark.parametrize("contenders", [["numpy", "fastopt"], epoch.CONTENDERS])
def test_table(capsys, monkeypatch, contenders):
    """measure() refuses to time contenders whose losses differ: here they do not."""
    if "torch" in contenders:
        pytest.importorskip("torch")
    monkeypatch.setattr(epoch, "PAUSE", 0.0)
    epoch.main([*SMALL, "--contenders", *contenders])
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [(width, name) for width in ("16", "24") for name in contenders]


def test_matrix_products_are_a_part_of_the_whole(monkeypatch):
    monkeypatch.setattr(epoch, "PAUSE", 0.0)
    for whole, products in epoch.measure(16, ["numpy", "fastopt"], 32, 96, 0.001).values():
        assert 0.0 < products < whole


def test_other_losses_are_refused(monkeypatch):
    monkeypatch.setattr(epoch.NUMPY, "softmax_cross_entropy",
                        lambda logits, labels, out: (1.01, np.zeros_like(logits)))
    with pytest.raises(AssertionError, match="losses of the first epoch differ"):
        epoch.measure(16, ["numpy", "fastopt"], 32, 96, 0.001)


@pytest.mark.parametrize(("contenders", "which"), [
    ([], "fastopt"), (["--contenders", "fastopt, OpenMP regions"], "fastopt, OpenMP regions"),
])
def test_settings(capsys, monkeypatch, contenders, which):
    monkeypatch.setattr(epoch, "SETTINGS", {"as installed": {}, "one": {"FASTOPT_NUM_THREADS": "1"}})
    epoch.main([*SMALL, *contenders, "--settings", "--repeats", "1"])
    text = capsys.readouterr().out
    assert f"with {which}, milliseconds" in text
    for name in ("as installed", "one"):
        assert re.search(rf"^\| {name} \| [\d.]+ \([\d.]+ \+ [\d.]+\) \| [\d.]+ \([\d.]+ \+ [\d.]+\) \|$", text, re.M)
