"""`fastopt train` on the command line: what a user sees, what is written, and what is refused."""

import csv
import dataclasses
import json
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from fastopt.__main__ import main

pytest.importorskip("sklearn")
pytest.importorskip("scipy")
pytest.importorskip("tqdm")
pytest.importorskip("threadpoolctl")

from fastopt.demo import data, fit, report
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Epoch, Trainer


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def run():
    """One run of `fastopt train --epochs 2` as a process of its own."""
    return subprocess.run([sys.executable, "-m", "fastopt", "train", "--epochs", "2", "--reference"],
                          capture_output=True, text=True, check=False, timeout=300)


ROW = r" {4}(\d) +\d+\.\d{4} +\d+\.\d\d% +\d\.\d{4} +\d+\.\d\d% +\d+\.\d{3}(?:  \*)?"


def test_what_is_reported(run):
    assert (run.returncode, run.stderr) == (0, "")
    assert max(map(len, run.stdout.splitlines())) <= 80

    def lines(pattern):
        return re.findall(f"^{pattern}$", run.stdout, re.M)

    assert lines("scikit-learn's digits: 1197 training, 240 validation, 360 test images")
    assert lines(r"BatchNorm, relu   \(N, 128\) +256")
    assert lines("total +17,418")
    assert lines(ROW) == ["1", "2"]
    assert lines(r"Best epoch: [12], with validation loss \d\.\d{4} and accuracy \d\d\.\d\d%\.")
    assert lines(r"Its weights on the test images: loss \d\.\d{4}, accuracy \d\d\.\d\d%, \d+ of 360 right\.")
    for name in ("NumPy as one writes it", "fastopt.reference"):
        assert lines(name + r" +\d\d\.\d\d% +\d+\.\d\d s   \d+\.\d\d times fastopt's")
    assert lines(r"fastopt +\d\d\.\d\d% +\d+\.\d\d s")
    assert lines(r"fastopt\.reference: (?:all|[\d,]+ of) [\d,]+ weights and statistics have (?:the same|other) bits.*")


def test_a_run_is_repeatable(run, capsys):
    """The same seed gives the same training in another process; another seed does not."""
    def epochs(text):
        return [line.split()[:5] for line in text.splitlines() if re.fullmatch(ROW, line)]

    assert main(["train", "--epochs", "2", "--no-comparison"]) == 0
    assert epochs(capsys.readouterr().out) == epochs(run.stdout) != []
    assert main(["train", "--epochs", "2", "--no-comparison", "--seed", "1"]) == 0
    assert epochs(capsys.readouterr().out) != epochs(run.stdout)


def test_the_confusion_matrix(digits, capsys):
    """Its rows are the test images of each label, and say what the network said."""
    trainer = Trainer(Settings(epochs=1), digits)
    trainer.run_epoch()
    trainer.load_best()
    predicted = trainer.network.logits(digits.test.x).argmax(axis=1)
    rows = report.confusions(digits.test.labels, predicted, 10)[2:]
    for label, row in enumerate(rows):
        named, *counts, accuracy = row.replace("·", "0").split()
        assert int(named) == label
        expected = np.bincount(predicted[digits.test.labels == label], minlength=10)
        np.testing.assert_array_equal([int(count) for count in counts], expected)
        assert accuracy == f"{expected[label] / expected.sum():.1%}"


def test_of_many_classes_the_worst_are_named():
    labels = np.arange(100) % 50
    predicted = np.where(labels == 7, 8, labels)
    text = report.confusions(labels, predicted, 50)
    assert text[:2] == ["Least accurate classes", "class 7: 0.0%"]
    assert text[-2:] == ["Most frequent confusions", "7 as 8: 2"]


def test_a_class_without_test_images():
    text = report.confusions(np.array([0, 0, 2]), np.array([0, 2, 2]), 3)
    assert [row.split()[-1] for row in text[2:]] == ["50.0%", "–", "100.0%"]


@pytest.mark.parametrize("options", [
    ["--network", "tokens", "--hidden", "20", "--activation", "gelu", "--init", "xavier"],
    ["--no-batch-norm", "--batch-size", "1", "--optimizer", "sgd", "--lr", "0.01", "--momentum", "0.5"],
    ["--batch-size", "all", "--optimizer", "rprop", "--schedule", "constant", "--threads", "2"],
    ["--hidden", "--optimizer", "lbfgs"],
    ["--hidden", "--l1", "1e-4", "--l2", "1e-3", "--decoupled", "0.01", "--beta2", "0.99", "--clip-norm", "1"],
    ["--augment", "shift", "rotate=20", "zoom", "flip=0.2", "rescale", "--dropout", "0.2", "--average", "0.9",
     "--schedule", "piecewise", "--warmup", "0.1", "--final-lr", "0.1"],
])
def test_options(options, capsys):
    if "lbfgs" in options:
        assert refusal(options, capsys).startswith("argument --optimizer: invalid choice: 'lbfgs' (choose from")
    else:
        assert main(["train", "--epochs", "1", *options]) == 0
        assert "NumPy as one writes it" in capsys.readouterr().out


def test_validation_freq(capsys):
    """The last epoch is always validated."""
    assert main(["train", "--epochs", "5", "--validation-freq", "2", "--no-comparison"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r" {4}\d +\d+\.\d{4} ", line)]
    assert [len(row) - row.count("*") for row in rows] == [4, 6, 4, 6, 6]


def validations(losses):
    """A trainer whose epochs had these validation losses; None: not validated."""
    trainer = Trainer.__new__(Trainer)
    trainer.best, trainer.history = None, []
    for number, loss in enumerate(losses, 1):
        epoch = Epoch(number, number, 0.1, 1.0, 0.5, 0.1, 0.0, loss, None if loss is None else 0.5)
        trainer.history.append(epoch)
        if loss is not None and (trainer.best is None or loss < trainer.best.validation_loss):
            trainer.best = epoch
    return trainer


@pytest.mark.parametrize(("losses", "patience", "stops"), [
    ([3, 2, 2], 1, True), ([3, 2, 2], 2, False), ([3, 2, 4, 2], 2, True), ([3, 2, 4, 1], 2, False),
    ([3, None, 4, None], 2, False), ([3, None, 4, None, 5], 2, True), ([None, None], 1, False),
    ([1, 2, 3], None, False),
])
def test_when_it_stops_early(losses, patience, stops):
    assert fit.stopped_early(validations(losses), patience) == stops


def test_early_stopping(capsys):
    assert main(["train", "--epochs", "60", "--patience", "3"]) == 0
    text = capsys.readouterr().out
    assert "Stopped early: none of the last 3 validations was better." in text
    last = max(int(number) for number in re.findall(r"^ +(\d+) +\d+\.\d{4} ", text, re.M))
    assert int(re.search(r"Best epoch: (\d+)", text)[1]) == last - 3 < 57


def test_it_diverges(capsys):
    assert main(["train", "--optimizer", "sgd", "--lr", "1e20"]) == 1
    assert re.fullmatch(r"fastopt train: the loss is (nan|inf) in epoch 1: try a smaller --lr than 1e\+20\n",
                        capsys.readouterr().err)


def test_threads_are_set_for_the_training_only(monkeypatch):
    import threadpoolctl

    def threads():
        return (fastopt.get_num_threads(), [library["num_threads"] for library in threadpoolctl.threadpool_info()
                                            if library["user_api"] == "blas"])

    seen, run_epoch, before = [], Trainer.run_epoch, threads()
    monkeypatch.setattr(Trainer, "run_epoch", lambda *a, **k: (seen.append(threads()), run_epoch(*a, **k))[1])
    for options in (["--threads", "3"], []):
        assert main(["train", "--epochs", "1", "--no-comparison", *options]) == 0
    assert [fastopts for fastopts, _ in seen] == [3, 1]
    assert set(seen[1][1]) <= {1}
    assert threads() == before


# What is written

def test_a_history_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    assert main(["train", "--epochs", "1", "--no-comparison", "--history", str(tmp_path / "h.csv")]) == 1
    assert capsys.readouterr().err == "fastopt train: [Errno 28] No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_history(tmp_path):
    for name in ("a.json", "b.csv"):
        assert main(["train", "--epochs", "3", "--validation-freq", "2", "--no-comparison", "--history",
                     str(tmp_path / name)]) == 0
    written = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert Settings.from_json(written["settings"]) == Settings(epochs=3).resolved
    epochs = [Epoch(**entry) for entry in written["history"]]
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert [epoch.validation_loss is None for epoch in epochs] == [True, False, False]
    with (tmp_path / "b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, epoch in zip(rows, epochs, strict=True):
        assert list(row) == [field.name for field in dataclasses.fields(Epoch)]
        for name, value in dataclasses.asdict(epoch).items():
            if name not in ("seconds", "augmenting"):
                assert row[name] == ("" if value is None else str(value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.csv"]


def test_tensorboard(tmp_path):
    """Every scalar of every epoch can be read from the event file."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    history, folder = tmp_path / "h.json", tmp_path / "events"
    options = ["train", "--epochs", "3", "--validation-freq", "2", "--no-comparison", "--tensorboard", str(folder)]
    assert main([*options, "--history", str(history)]) == 0
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
        content = content[16 + length :]
    expected = {}
    for entry in json.loads(history.read_text())["history"]:
        for tag, name in (("loss/training", "loss"), ("accuracy/training", "accuracy"), ("lr", "lr"),
                          ("loss/validation", "validation_loss"), ("accuracy/validation", "validation_accuracy")):
            if entry[name] is not None:
                expected[tag, entry["epoch"]] = pytest.approx(entry[name], rel=1e-6)
    assert found == expected
    assert len(expected) == 13


def test_events_of_another_training_stay_alone(tmp_path, capsys):
    (tmp_path / "events.out.tfevents.1.host").touch()
    pytest.importorskip("tensorboardX")
    assert "expected a folder without events" in refusal(["--tensorboard", str(tmp_path)], capsys)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot(suffix, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curves{suffix}"
    alone = ["--no-comparison"] if suffix == ".svg" else []
    assert main(["train", "--epochs", "2", "--plot", str(path), *alone]) == 0
    assert f"Learning curves: {path}" in capsys.readouterr().out
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_data_of_the_users_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    images = rng.integers(0, 50, (400, 5, 4)).astype(np.uint8)
    images[np.arange(400), labels] += 200
    np.savez(tmp_path / "mine.npz", x_train=images[:300], y_train=labels[:300], x_test=images[300:],
             y_test=labels[300:])
    assert main(["train", "--data", str(tmp_path / "mine.npz"), "--epochs", "5"]) == 0
    text = capsys.readouterr().out
    assert "of 5 × 4, 3 classes" in text
    assert "accuracy 100.00%, 100 of 100 right" in text
    (tmp_path / "mine.npz").write_bytes(b"PK no archive")
    message = refusal(["--data", str(tmp_path / "mine.npz")], capsys)
    assert message.startswith("argument --data: ")


def test_an_encoding_without_the_characters():
    run = subprocess.run([sys.executable, "-m", "fastopt", "train", "--epochs", "1", "--no-comparison"], check=False,
                         capture_output=True, timeout=300, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"of 8 ? 8, 10 classes" in run.stdout


# What is refused

def refusal(options, capsys):
    """The line with which `fastopt train` refuses the options, with exit status 2."""
    try:
        status = main(["train", *options])
    except SystemExit as caught:
        status = caught.code
    text = capsys.readouterr()
    assert (status, text.out, text.err.count("\n")) == (2, "", 1)
    return text.err.partition(": ")[2].strip()


@pytest.mark.parametrize(("options", "message"), [
    (["--epochs", "0"], "argument --epochs: expected an int in [1, 1000000000], got 0"),
    (["--epochs", "two"], "argument --epochs: expected an int, got 'two'"),
    (["--batch-size", "1"], "argument --batch-size: expected at least 2 with BatchNorm"),
    (["--batch-size", "some"], "argument --batch-size: expected an int or all, got 'some'"),
    (["--batch-size", "1198"],
     "argument --batch-size: expected at most 1197, the number of training images, got 1198"),
    (["--lr", "0"], "argument --lr: expected a number in (0, 1e30], got 0"),
    (["--lr", "nan"], "argument --lr: expected a number in (0, 1e30], got nan"),
    (["--lr", "-1"], "argument --lr: expected a number in (0, 1e30], got -1"),
    (["--lr", "fast"], "argument --lr: expected a number, got 'fast'"),
    (["--network", "words"], "argument --network: invalid choice: 'words'"),
    (["--hidden", "0"], "argument --hidden: expected ints in [1, 1000000000], got 0"),
    (["--hidden", "8", str(10**20)], f"argument --hidden: expected ints in [1, 1000000000], got 8 {10**20}"),
    (["--epochs", str(10**20)], f"argument --epochs: expected an int in [1, 1000000000], got {10**20}"),
    (["--dropout", "1"], "argument --dropout: expected a number in [0, 1), got 1"),
    (["--augment", "shear"], "argument --augment: expected some of shift, rotate, zoom, flip, rescale, got 'shear'"),
    (["--augment", "shift=much"], "argument --augment: expected a number after shift=, got 'much'"),
    (["--augment", "shift=0.9"], "argument --augment: expected shift in (0, 0.5], got 0.9"),
    (["--augment", "shift", "shift"], "argument --augment: expected each name once, got shift 2 times"),
    (["--optimizer", "lion", "--l2", "1"], "argument --l2: expected none for lion, whose weight decay is decoupled"),
    (["--schedule", "constant", "--final-lr", "0.1"],
     "argument --final-lr: expected none with --schedule constant, got 0.1"),
    (["--seed", "-1"], "argument --seed: expected an int of at least 0, got -1"),
    (["--threads", "1025"], "argument --threads: expected an int in [1, 1024], got '1025'"),
    (["--patience", "0"], "argument --patience: expected an int of at least 1, got '0'"),
    (["--reference", "--no-comparison"], "argument --no-comparison: not allowed with argument --reference"),
    (["--data", "no.npz"], "argument --data: "),
    (["--history", "history.txt"], "argument --history: expected a name that ends in one of .csv, .json, got "),
    (["--history", "no/folder/history.csv"], "argument --history: expected a file in an existing folder, got "),
    (["--history", "x" * 300 + ".csv"], "argument --history: expected a writable file, got "),
    (["--plot", "curves.pgf"], "argument --plot: expected a name that ends in one of ."),
    (["--plot", "curves.docx"], "argument --plot: expected a name that ends in one of ."),
    (["--checkpoint", "no/such/folder"], "argument --checkpoint: expected a folder, or a new name in an existing one"),
    (["--checkpoint", "x" * 300], "argument --checkpoint: expected a folder"),
    (["--checkpoint", __file__], "argument --checkpoint: expected a folder, or a new name"),
    (["--speed", "9"], "unrecognized arguments: --speed 9"),
])
def test_bad_options(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    good = ["--history", "good.json", "--checkpoint", "good"] if "--checkpoint" not in options else []
    assert refusal([*good, *options], capsys).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [[], ["trian"]])
def test_no_such_command(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert re.match("fastopt: .*command", capsys.readouterr().err)


@pytest.mark.parametrize(("module", "name", "extra"), [
    ("sklearn.metrics", "scikit-learn", "demo"), ("tqdm", "tqdm", "demo"), ("threadpoolctl", "threadpoolctl", "demo"),
    ("scipy.ndimage", "scipy", "demo"), ("matplotlib", "matplotlib", "demo"),
    ("tensorboardX", "tensorboardX", "tensorboard"),
])
def test_a_missing_package(module, name, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    options = {"matplotlib": ["--plot", "curves.png"], "scipy.ndimage": ["--augment", "shift"],
               "tensorboardX": ["--tensorboard", "events"]}.get(module, [])
    assert refusal(options, capsys) == f'{name} is not installed; run: pip install "fastopt[{extra}]"'


def test_packages_that_are_not_needed(monkeypatch, capsys):
    for module in ("matplotlib", "matplotlib.figure", "scipy.ndimage", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["train", "--epochs", "1", "--no-comparison"]) == 0


def test_help_imports_nothing_heavy():
    code = ("import sys; from fastopt.__main__ import make_parser; make_parser(); heavy = {'sklearn', 'scipy', 'tqdm', "
            "'matplotlib', 'threadpoolctl', 'tensorboardX', 'multiprocessing'}; "
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
