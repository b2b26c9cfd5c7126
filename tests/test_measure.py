"""The programs bench/measure_*.py with small arguments: their tables, and that contenders train the same network."""

import os
import platform
import re
import sys
from pathlib import Path

import measure_builds
import measure_calls
import measure_epoch
import measure_levels
import measure_ratios
import measure_threads
import networks
import pytest
import trainers

import fastopt
from fastopt._runtime import dispatch
from fastopt.bench import timing
from fastopt.bench.contenders import WrongResultError

SMALL = ["--widths", "16", "24", "--batch", "32", "--examples", "96", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(measure_epoch, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "WARM", 0.0)


@pytest.fixture
def numpy_alone(monkeypatch):
    """No other library: they take seconds to import and to compile."""
    for name in ("torch", "numba", "jax", "tensorflow", "thinc", "deepspeed"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("contenders", [["numpy", "fastopt", "fastopt, 1 thread"], trainers.CONTENDERS])
def test_epoch(capsys, contenders):
    """measure() refuses to time contenders whose losses differ: here they do not."""
    if "torch" in contenders:
        pytest.importorskip("torch")
    measure_epoch.main([*SMALL, "--keep-heap", "--contenders", *contenders])
    number = r"(-?[\d.]+)"
    rows = re.findall(rf"^\| ([^|]+) \| ([^|]+) \| {' [|] '.join([number] * 6)} \| (?:\d[\d.]*|–) \| {number} \|",
                      capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [
        (title, name) for title in ("mlp 16", "mlp 24", "dropout 16", "dropout 24", "conv", "language")
        for name in contenders if title.startswith("dropout") or name not in networks.WITHOUT]
    for row in rows:
        whole, *parts = map(float, row[2:8])
        assert whole > 0
        assert sum(parts) == pytest.approx(whole, abs=0.3)


def test_epoch_without_torch(capsys, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    monkeypatch.syspath_prepend(tmp_path)
    measure_epoch.main(["mlp", *SMALL, "--contenders", "fastopt", "torch"])
    output = capsys.readouterr()
    assert "(torch: torch is not installed)" in output.err
    assert "| mlp 24 | fastopt |" in output.out
    assert "| torch |" not in output.out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_heap is for glibc's malloc")
def test_kept_heap():
    """The temporaries of an update of 1.6 million parameters are new pages in each step, or in few."""
    task = networks.tasks(["language"], [])["language"]
    faults = []
    for keep_heap in (False, True):
        worker = trainers.Worker({}, keep_heap, "numpy", task, 96, 32)
        faults.append(worker.epoch().faults)
        worker.close()
    assert faults[1] < faults[0] / 2


def test_an_epoch_with_slow_products_does_not_decide_the_other_parts():
    def epoch(products, layers, rest):
        parts = {**dict.fromkeys(trainers.PARTS, 0.0), "products": products, "layers": layers}
        return trainers.Epoch(2.0, products + layers + rest, parts, 5.0)

    found = measure_epoch.median([epoch(1.0, 3.0, 0.25), epoch(2.0, 0.5, 0.25), epoch(9.0, 0.5, 0.75)])
    assert (found.parts["products"], found.parts["layers"], found.seconds, found.faults) == (2.0, 0.5, 2.75, 5.0)


def test_unknown_network():
    with pytest.raises(SystemExit):
        measure_epoch.main(["transformer"])


def test_other_losses_are_refused(monkeypatch):
    monkeypatch.setattr(measure_epoch, "TOLERANCE", -1e-9)
    with pytest.raises(WrongResultError, match="losses of the first epoch differ"):
        measure_epoch.main(["mlp", *SMALL, "--contenders", "numpy", "fastopt"])


@pytest.mark.parametrize(("contenders", "which"), [
    ([], "fastopt"), (["--contenders", "fastopt, 1 thread"], "fastopt, 1 thread"),
])
def test_settings(capsys, monkeypatch, contenders, which):
    monkeypatch.setattr(measure_epoch, "SETTINGS", {"as installed": {}, "one": {"FASTOPT_NUM_THREADS": "1"}})
    measure_epoch.main(["mlp", *SMALL, *contenders, "--settings", "--repeats", "2"])
    text = capsys.readouterr().out
    assert f"with {which}, milliseconds" in text
    for name in ("as installed", "one"):
        assert re.search(rf"^\| {name} \| [\d.]+ \([\d.]+ \+ [\d.]+\) \| [\d.]+ \([\d.]+ \+ [\d.]+\) \|$", text, re.M)


def test_threads(capsys):
    measure_threads.main(["--sizes", "256", "512", "--rounds", "2", "--threads", "3"])
    text = capsys.readouterr().out
    assert "| 3 threads, µs |" in text
    assert re.findall(r"^\| (\w+) \| (\d+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", text, re.M) == [
        (name, size) for name in ("adam", "sgd", "log_softmax") for size in ("256", "512")]


def test_calls(capsys):
    measure_calls.main(["--rounds", "2"])
    rows = re.findall(r"^\| (.+) \| (\d+) \| [\d.]+ \| [\d.]+ \|$", capsys.readouterr().out, re.M)
    assert rows == [(name, str(count)) for name, count, _ in measure_calls.calls()]
    assert len(rows) > 5


def test_builds(capsys):
    folder = os.path.dirname(fastopt.__path__[0])
    measure_builds.main([folder, folder, "--rounds", "2"])
    rows = re.findall(r"^\| (.+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", capsys.readouterr().out, re.M)
    assert rows == [*(name for name, _ in measure_builds.workloads()), "import, after NumPy"]


def test_levels(capsys, monkeypatch):
    monkeypatch.setattr(measure_levels, "N", 256)
    before = dispatch.active
    measure_levels.main(["--rounds", "2"])
    assert dispatch.active is before
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert {"| sgd", "| adaptive", "| adam", "| sign", "| layerwise", "| batchnorm", "| softmax",
            "| cross_entropy", "| dropout", "| embedding", "| layernorm", "| activation"} == {row[0] for row in rows}
    assert all(len(row) == 3 + len(dispatch.available()) for row in rows)


def test_ratios(capsys, monkeypatch, numpy_alone):
    monkeypatch.setattr("models.MODELS", {"small": lambda: [(3, 4), (4,)]})
    measure_ratios.main(["--sizes", "100", "--rounds", "2"])
    output = capsys.readouterr()
    ratio = r"[\d.]+ \([\d.]+ – [\d.]+\), best [\d.]+"
    assert re.search(rf"^\| 100 \| [\d.]+ µs \| {ratio} \| {ratio} \| {ratio} \|", output.out, re.M)
    assert re.search(rf"^\| AdamW, clipped by norm small \| [\d.]+ µs \|  \| {ratio} \|$", output.out, re.M)
    assert re.search(rf"^\| lamb \| 100 \| [\d.]+ \| 40 \| \d+ \|  \| {ratio} \|$", output.out, re.M)
    assert output.err.count("(torch is not installed)") == 1
    with pytest.raises(SystemExit):
        measure_ratios.main(["sgd"])


def test_every_program_is_tested():
    """measure_sweep in test_sweep.py, the others here."""
    here = (measure_builds, measure_calls, measure_epoch, measure_levels, measure_ratios, measure_threads)
    assert {path.stem for path in Path(measure_epoch.__file__).parent.glob("measure_*.py")} == {
        "measure_sweep", *(module.__name__ for module in here)}
