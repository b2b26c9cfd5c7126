"""`fastopt bench`: the table, that what it times agrees, and what it says when something is missing."""

import json
import re
import sys

import numpy as np
import pytest

import fastopt
from fastopt.__main__ import main
from fastopt.bench import batchnorm, command, optimizers, softmax
from fastopt.bench.contenders import CONTENDERS, Contender, UnavailableError, WrongResultError, load, prepare

KERNELS = {"sgd (momentum)", "adam", "Adam", "batch_norm_forward", "batch_norm_backward", "batch_norm_inference",
           "log_softmax", "softmax_cross_entropy"}
QUICK = {str(workload): workload for workload in command.workloads(quick=True)}


@pytest.fixture
def numpy_alone(monkeypatch):
    """No torch, no numba: they take seconds to import and to compile."""
    for name in command.PEERS:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def small(monkeypatch):
    """Two rows."""
    rows = [optimizers.one_tensor(optimizers.ADAM, "100", 100), softmax.workload("log_softmax", (3, 5))]
    monkeypatch.setattr(command, "workloads", lambda quick: rows)


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
    assert {result["contender"] for result in results} == {"fastopt", "numpy", "roof"}
    for result in results:
        assert result["threads"] == 1
        assert result["ns/element"] == pytest.approx(result["seconds"] / result["elements"] * 1e9)
        assert result["GB/s"] == pytest.approx(result["bytes/element"] / result["ns/element"])


def test_threads_are_those_asked_for_and_no_longer(small, numpy_alone, capsys):
    before = fastopt.get_num_threads()
    assert main(["bench", "--threads", "3", "--seconds", "0.001"]) == 0
    assert ", threads: 3\n" in capsys.readouterr().out
    assert fastopt.get_num_threads() == before


@pytest.mark.parametrize("name", QUICK)
def test_numpy_agrees(name):
    """What NumPy users write is what the kernels compute: it would be no comparison otherwise."""
    assert command.contenders(QUICK[name])[:3] == ["fastopt", "roof", "numpy"]
    for contender in ("fastopt", "numpy"):
        prepare(QUICK[name], contender)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("peer", command.PEERS)
def test_peers_agree(name, peer):
    pytest.importorskip(peer)
    names = [contender for contender in command.contenders(QUICK[name]) if contender.startswith(peer)]
    assert names or peer != "torch"
    for contender in names:
        prepare(QUICK[name], contender)


def test_peers_write_to_given_arrays_where_they_can():
    assert command.contenders(batchnorm.workload("forward", (4, 3)))[3:] == ["torch out="]
    assert command.contenders(batchnorm.workload("backward", (4, 3)))[3:] == ["torch"]
    assert command.contenders(QUICK["adam 10,000"])[3:] == ["torch", "numba"]


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_a_wrong_result_is_not_timed(small, numpy_alone, monkeypatch, capsys, wrong):
    right = softmax.log_softmax
    maker = softmax.by_numpy(lambda x: right(x) + np.float32(wrong))
    monkeypatch.setitem(CONTENDERS["log_softmax"], "numpy", maker)
    assert main(["bench", "--seconds", "0.001"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("fastopt bench: log_softmax (3, 5): numpy's result differs by ")
    assert "\nadam " in output.out
    assert "\nlog_softmax" not in output.out


@pytest.mark.parametrize("workload", [optimizers.one_tensor(optimizers.ADAM, "100", 100),
                                      optimizers.model(optimizers.ADAM, "small", [(7, 5), (5,)]),
                                      optimizers.model(optimizers.ADAM, "small", [(7, 5), (5,)], clip=1.0)])
def test_a_wrong_step_is_not_timed(workload, monkeypatch):
    """By a hundredth: it is the step that is compared, and not the parameter, which is a thousand times larger."""
    by_numpy = CONTENDERS[workload.kernel]["numpy"]

    def wrong(problem):
        before = [param.copy() for param in problem.params]
        made = by_numpy(problem)

        def call():
            made.call()
            for param, start in zip(problem.params, before, strict=True):
                param += np.float32(0.01) * (param - start)
        return Contender(call, made.result)

    prepare(workload, "numpy")
    monkeypatch.setitem(CONTENDERS[workload.kernel], "numpy", wrong)
    with pytest.raises(WrongResultError, match=rf"^{re.escape(str(workload))}: numpy's result differs by "):
        prepare(workload, "numpy")


@pytest.mark.parametrize("which", batchnorm.PASSES)
def test_a_result_of_an_earlier_contender_does_not_count(which, monkeypatch):
    workload = batchnorm.workload(which, (8, 3))
    prepare(workload, "fastopt")
    monkeypatch.setitem(CONTENDERS[workload.kernel], "idle", lambda problem: Contender(
        lambda: problem.data.results if which == "backward" else [problem.data.out]))
    with pytest.raises(WrongResultError, match="idle's result differs by nan"):
        prepare(workload, "idle")


@pytest.mark.parametrize("workload", [batchnorm.workload("backward", (8, 3)),
                                      softmax.workload("softmax_cross_entropy", (4, 5))], ids=str)
def test_a_nan_in_any_part_of_the_result_is_not_timed(workload, monkeypatch):
    """The first part is right; Python's max would overlook a NaN that comes later."""
    ours = CONTENDERS[workload.kernel]["fastopt"]

    def wrong(problem):
        made = ours(problem)

        def result(_):
            first, *others = made.result(made.call())
            return [first, *(np.full_like(other, np.nan) for other in others)]
        return Contender(made.call, result)

    monkeypatch.setitem(CONTENDERS[workload.kernel], "wrong", wrong)
    with pytest.raises(WrongResultError, match="wrong's result differs by nan"):
        prepare(workload, "wrong")


def test_a_library_that_does_not_work(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("import not_installed_at_all\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableError, match="broken_library cannot be imported: No module named 'not_installed"):
        load("broken_library")


def test_a_file_that_cannot_be_written(small, numpy_alone, capsys, tmp_path):
    assert main(["bench", "--seconds", "0.001", "--json", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("fastopt bench: ")


@pytest.mark.parametrize("options", [["--threads", "0"], ["--seconds", "0"], ["--seconds", "long"], ["--size", "1"]])
def test_bad_options(options):
    with pytest.raises(SystemExit) as error:
        main(["bench", *options])
    assert error.value.code == 2
