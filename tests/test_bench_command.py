"""`fastopt bench`: the table, that what it times agrees, and what it says when something is missing."""

import builtins
import json
import re

import numpy as np
import pytest

import fastopt
from fastopt import _bench, _bench_contenders
from fastopt.__main__ import main

KERNELS = {"sgd, momentum", "adam", "Adam, whole model", "batch_norm_forward", "batch_norm_backward",
           "batch_norm_inference", "log_softmax", "softmax_cross_entropy"}


@pytest.fixture
def numpy_alone(monkeypatch):
    """No torch, no numba: they take seconds to import and to compile."""
    real = builtins.__import__

    def without(name, *rest, **named):
        if name in _bench.PEERS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def small(monkeypatch):
    """Two rows."""
    rows = [_bench.Workload("adam", "100", 100, ("uruu",), _bench_contenders.adam(100)),
            _bench.Workload("log_softmax", "(3, 5)", 15, ("rw",), _bench_contenders.log_softmax((3, 5)))]
    monkeypatch.setattr(_bench, "workloads", lambda quick: rows)
    return rows


def test_table(numpy_alone, capsys, tmp_path):
    path = tmp_path / "figures.json"
    assert main(["bench", "--quick", "--seconds", "0.001", "--threads", "1", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"fastopt {fastopt.__version__}, level ")
    assert ", threads: 1\n" in text
    for kernel in KERNELS:
        assert re.search(rf"^{re.escape(kernel)} .* \d+\.\d{{3}} +\d+\.\d +\d+% +\d+\.\d\d$", text, re.M), kernel
    assert "(torch is not installed)\n(numba is not installed)\n" in text

    file = json.loads(path.read_text("utf-8"))
    assert file["config"]["fastopt"] == fastopt.__version__
    results = file["results"]
    assert {result["kernel"] for result in results} == KERNELS
    assert {result["contender"] for result in results} == {"fastopt", "numpy", "same streams"}
    for result in results:
        assert result["threads"] == 1
        assert result["ns/element"] == pytest.approx(result["seconds"] / result["elements"] * 1e9)
        assert result["GB/s"] == pytest.approx(result["bytes/element"] / result["ns/element"])


def test_threads_are_those_asked_for_and_no_longer(small, numpy_alone, capsys):
    before = fastopt.get_num_threads()
    assert main(["bench", "--threads", "3", "--seconds", "0.001"]) == 0
    assert ", threads: 3\n" in capsys.readouterr().out
    assert fastopt.get_num_threads() == before


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_contenders_agree_with_the_reference(kernel):
    """What NumPy users write is what the kernels compute: it would be no comparison otherwise."""
    for workload in _bench.workloads(quick=True):
        if workload.kernel == kernel:
            calls = _bench.prepare(workload, [*_bench.PEERS])
            assert list(calls) == ["fastopt", "numpy", "same streams"]


@pytest.mark.parametrize("peer", _bench.PEERS)
def test_peers_agree(peer):
    pytest.importorskip(peer)
    for workload in _bench.workloads(quick=True):
        if peer in workload.makers:
            assert peer in _bench.prepare(workload, [other for other in _bench.PEERS if other != peer])


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_a_wrong_result_is_not_timed(small, numpy_alone, monkeypatch, capsys, wrong):
    right = _bench_contenders.numpy_log_softmax
    monkeypatch.setattr(_bench_contenders, "numpy_log_softmax", lambda x: right(x) + wrong)
    assert main(["bench", "--seconds", "0.001"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("fastopt bench: log_softmax (3, 5): numpy's result differs by ")
    assert "\nadam " in output.out
    assert "\nlog_softmax" not in output.out


def test_a_wrong_step_is_not_timed(numpy_alone, monkeypatch):
    """By a hundredth: it is the step that is compared, and not the parameter, which hides it."""
    right = _bench_contenders.numpy_sgd
    monkeypatch.setattr(_bench_contenders, "numpy_sgd", lambda p, g, buf: right(p, np.float32(1.01) * g, buf))
    row = _bench.Workload("sgd, momentum", "100", 100, ("uru",), _bench_contenders.sgd(100))
    with pytest.raises(_bench.Different, match=r"^sgd, momentum 100: numpy's result differs by "):
        _bench.prepare(row, [*_bench.PEERS])


def test_a_file_that_cannot_be_written(small, numpy_alone, capsys, tmp_path):
    assert main(["bench", "--seconds", "0.001", "--json", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("fastopt bench: ")


@pytest.mark.parametrize("options", [["--threads", "0"], ["--seconds", "0"], ["--seconds", "long"], ["--size", "1"]])
def test_bad_options(options):
    with pytest.raises(SystemExit) as error:
        main(["bench", *options])
    assert error.value.code == 2
