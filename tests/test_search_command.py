"""`fastopt search` on the command line: what it prints, writes and refuses, and that it finds good settings."""

import csv
import os
import re
import subprocess
import sys

import pytest
from search_runs import found

import fastopt
from fastopt.__main__ import main

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")
pytest.importorskip("optuna")
pytest.importorskip("threadpoolctl")

SMALL = ["search", "--space", "lr=1e-4..1", "units=8..32", "--trials", "4", "--epochs", "3", "--jobs", "2",
         "--rounds", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small search, with everything that it writes."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("search")
    files = ["--results", "r.journal", "--table", "t.csv", "--plot", "p.svg"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(fastopt.__path__[0])}
    done = subprocess.run([sys.executable, "-m", "fastopt", *SMALL, *files], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False, timeout=300)
    return done, folder


def test_what_is_printed(run):
    done, _ = run
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"Round 1 of 2, 4 trials:\n  lr 0.0001..1 \(log\)\n  units 8..32 \(linear\)\n\n"
                    r"Round 2 of 2, 4 trials:\n  lr [\d.]+..[\d.]+ \(log\)\n  units \d+..\d+ \(linear\)\n\n"
                    r"The best of 8 trials by validation, of \d+ epochs in [\d.]+ s on 2 processes:\n\n"
                    r"trial  accuracy +loss +epochs +lr  units\n( +[12]\.\d +.*\n){8}", done.stdout)
    figures = r" +\d\d\.\d\d%" * 2
    assert re.search(rf"^trial [12]\.\d{figures}\ndefault{figures}$", done.stdout, re.M)
    assert re.search(r"^  fastopt train --hidden \d+ \d+ --lr [\d.]+ --epochs 3$", done.stdout, re.M)


def test_what_is_written(run):
    done, folder = run
    assert sorted(path.name for path in folder.iterdir()) == ["p.svg", "r.journal", "t.csv"]
    rows = list(csv.DictReader((folder / "t.csv").read_text().splitlines()))
    assert [f"{row['round']}.{row['trial']}" for row in rows] == [f"{r}.{i}" for r in (1, 2) for i in (1, 2, 3, 4)]
    best = max(float(row["validation_accuracy"]) for row in rows if row["end"] == "complete")
    assert f"{best:.2%}" in done.stdout
    assert "<svg" in (folder / "p.svg").read_text()


def test_the_same_command_again(run, monkeypatch, capsys):
    """It trains nothing but the two that are judged."""
    done, folder = run
    monkeypatch.chdir(folder)
    assert main([*SMALL, "--results", "r.journal"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("4 trials, 4 of them finished before") == 2
    table = done.stdout[done.stdout.index("trial  accuracy"):done.stdout.index("\n\nAll trials")]
    assert table in printed


@pytest.mark.parametrize("options", [
    ["--method", "grid", "--rounds", "1"], ["--optimizer", "sgd", "--hidden", "12", "--seed", "4"],
    ["--space", "activation=relu,tanh", "optimizer=adam,momentum", "batch-size=16,32", "--rounds", "3"],
    ["--space", "beta2=0.9..0.999", "average=0.5..0.9", "--optimizer", "adam"]])
def test_options(options, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["search", "--trials", "3", "--rounds", "2", "--epochs", "1", "--jobs", "2", *options]
    assert main([*command, "--plot", str(tmp_path / "p.png")]) == 0
    assert "fastopt train" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    (["--space", "lr=1..0.1"], "argument --space: lr: expected LOW..HIGH with LOW below HIGH, got '1..0.1'"),
    (["--space", "lr=0.1..1", "--lr", "0.1"], "argument --space: lr is searched and cannot be given as --lr"),
    (["--space", "units=8..9", "layers=1..2", "--hidden", "8"],
     "argument --space: layers and units are searched and cannot be given as --hidden"),
    (["--space", "batch-size=8..9", "--batch-size", "8"],
     "argument --space: batch-size is searched and cannot be given as --batch-size"),
    (["--space", "batch-size=8..4000"],
     "argument --space: batch-size: expected at most 1197, the number of training images, got 4000"),
    (["--batch-size", "4000"], "argument --batch-size: expected at most 1197, the number of training images, got 4000"),
    (["--trials", "1"], "argument --trials: expected an int in [2, 100000], got '1'"),
    (["--rounds", "0"], "argument --rounds: expected an int in [1, 100], got '0'"),
    (["--jobs", "0"], "argument --jobs: expected an int in [1, 1024], got '0'"),
    (["--method", "bayes"], "argument --method: invalid choice: 'bayes'"),
    (["--strategy", "bear"], "argument --strategy: invalid choice: 'bear'"),
    (["--stage", "4"], "argument --stage: expected none with --strategy caviar"),
    (["--strategy", "panda", "--stage", "1"], "argument --stage: expected an int of at least 2, got '1'"),
    (["--strategy", "panda", "--stage", "9", "--epochs", "8"],
     "argument --stage: expected at most 8, the number of epochs, got 9"),
    *((["--strategy", "panda", *option], f"argument {option[0]}: expected none with --strategy panda") for option in (
        ["--space", "lr=0.1..1"], ["--method", "grid"], ["--trials", "9"], ["--rounds", "2"], ["--jobs", "1"],
        ["--results", "r"])),
    (["--dropout", "2"], "argument --dropout: expected a number in [0, 1), got 2"),
    (["--results", "no/such/folder/r"], "argument --results: expected a file that can be written, got "),
    (["--results", "."], "argument --results: expected a file that can be written, got '.': Is a directory"),
    (["--results", os.devnull], f"argument --results: {os.devnull!r} is no regular file"),
    (["--table", "t.txt"], "argument --table: expected a name that ends in one of .csv, got 't.txt'"),
    (["--plot", "p.docx"], "argument --plot: expected a name that ends in one of ."),
    (["--results", "p.csv", "--table", "p.csv"], "argument --table: expected another file than --results, got 'p.csv'"),
    (["--data", "no.npz"], "argument --data: "),
])
def test_refused(options, message, capsys, tmp_path, monkeypatch):
    """One line, exit status 2, nothing written."""
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["search", *options])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"fastopt search: {message}")
    assert len(printed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else(tmp_path, capsys):
    path = tmp_path / "notes"
    path.write_text("lr 0.1 was good\n")
    assert main([*SMALL, "--results", str(path)]) == 2
    assert capsys.readouterr().err == \
        f"fastopt search: argument --results: {str(path)!r} is no file of fastopt search\n"
    assert path.read_text() == "lr 0.1 was good\n"


@pytest.mark.parametrize("options", [[], ["--strategy", "panda", "--plot", "p.png"]])
def test_all_diverge(options, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not options:
        options = ["--space", "lr=1e19..1e20", "--trials", "2", "--rounds", "2", "--results", "r", "--plot", "p.png"]
    assert main(["search", "--optimizer", "sgd", "--no-batch-norm", "--epochs", "8", *options,
                 *(["--lr", "1e20"] if "panda" in options else [])]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("fastopt search: ")
    assert len(errors.splitlines()) == 1
    assert "diverged" in errors


@pytest.mark.parametrize(("module", "package"), [("optuna", "optuna"), ("sklearn", "scikit-learn"), ("tqdm", "tqdm"),
                                                 ("matplotlib", "matplotlib")])
def test_missing_package(module, package):
    code = (f"import sys; sys.modules['{module}'] = None; from fastopt.__main__ import main; "
            "sys.exit(main(['search', '--plot', 'p.png']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'fastopt search: {package} is not installed; run: pip install "fastopt[search]"\n'


def test_finds_at_least_the_defaults_accuracy():
    """From the wide default space, with the default budget: 4 rounds of 24 trials of 20 epochs, of which it trains 672.

    The default settings are trained for 20 epochs, too. tests/slow/test_search.py tries other seeds.
    """
    best, default, epochs = found()
    assert best >= default > 95
    assert epochs < 960         # 1920 without successive halving
