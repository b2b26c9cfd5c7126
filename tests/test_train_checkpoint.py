"""Checkpoints of `fastopt train`: the same bits after a kill at any moment; damage and foreign files are noticed."""

import contextlib
import dataclasses
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from states import assert_same

import fastopt
from fastopt.__main__ import main

pytest.importorskip("sklearn")
pytest.importorskip("scipy")
pytest.importorskip("tqdm")
pytest.importorskip("threadpoolctl")

from fastopt.demo import data
from fastopt.demo.checkpoint import Checkpoint, CheckpointError, fingerprint
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Trainer

EPOCHS = 16
CASES = {
    "adam": [],
    "dropout, averages, momentum": ["--dropout", "0.3", "--average", "0.95", "--optimizer", "nesterov", "--momentum",
                                    "0.8", "--hidden", "40", "--activation", "tanh", "--clip-norm", "1"],
    "augmentation": ["--augment", "shift", "rotate=5", "--batch-size", "200", "--optimizer", "sgd", "--hidden", "20",
                     "--no-batch-norm", "--dropout", "0.1", "--schedule", "piecewise"],
    "tokens": ["--network", "tokens", "--hidden", "24", "--dropout", "0.2", "--optimizer", "sophia", "--average", "0.9",
               "--validation-freq", "3", "--batch-size", "64"],
    "best only": ["--save-best-only", "--optimizer", "adamw", "--l1", "1e-4", "--patience", "4", "--validation-freq",
                  "2"],
}


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def command(folder, *options, epochs=EPOCHS):
    return ["train", "--epochs", str(epochs), "--checkpoint", str(folder), "--no-comparison", *options]


def without_times(state):
    """The state of a checkpoint with its history as dicts, times left out."""
    history = json.loads(state["trainer"]["history"])
    for epoch in history:
        del epoch["seconds"], epoch["augmenting"]
    return {**state, "trainer": {**state["trainer"], "history": json.dumps(history)}}


def assert_same_training(folder, other):
    assert_same(*(without_times(fastopt.load_state(path / "checkpoint.npz")) for path in (folder, other)))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folders with the checkpoint of each case, trained without a stop, by name."""
    folders = {}

    def trained(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("uninterrupted") / "checkpoints"
            assert main(command(folders[name], *CASES[name])) == 0
        return folders[name]
    return trained


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything and forks a child for each command, whose number it prints."""
    code = textwrap.dedent("""
        import json, os, sys
        from fastopt.__main__ import main
        from fastopt.demo import checkpoint, comparison, data, fit, plain, records, report
        import scipy.ndimage
        data.digits()
        print("ready", flush=True)
        for line in sys.stdin:
            child = os.fork()
            if not child:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os._exit(main(json.loads(line)))
            print(child, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(fastopt.__path__[0])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, bufsize=1, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"

        def start(argv):
            process.stdin.write(json.dumps(argv) + "\n")
            return int(process.stdout.readline()), lambda: int(process.stdout.readline())
        yield start
        process.stdin.close()


def written(path):
    """When a file was written; None if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_moments(name, server, uninterrupted, tmp_path):
    """SIGKILL again and again, random times after a checkpoint: it ends with the bits of a training without a stop."""
    moments, path = random.Random(name), tmp_path / "killed" / "checkpoint.npz"
    epoch = sum(entry["seconds"] for entry in json.loads(fastopt.load_state(
        uninterrupted(name) / "checkpoint.npz")["trainer"]["history"])) / EPOCHS
    held = []
    while True:
        resume, before = ["--resume"] if path.exists() else [], written(path)
        child, status = server(command(path.parent, *CASES[name], *resume))
        with contextlib.suppress(ProcessLookupError):       # it has ended
            if len(held) < 6:
                while written(path) == before:
                    os.kill(child, 0)
                    time.sleep(0.0002)
                time.sleep(moments.uniform(0.0, 3.0) * epoch)
                os.kill(child, signal.SIGKILL)
        ended = status()
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        held.append(Checkpoint(path.parent).epochs())
    assert held == sorted(set(held))        # each has added to what is saved, and nothing of it was lost
    assert len(held) >= 2
    assert_same_training(path.parent, uninterrupted(name))
    assert os.listdir(path.parent) == ["checkpoint.npz"]


@pytest.mark.parametrize("network", ["pixels", "tokens"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "rprop", "lamb"])
def test_resumed_from_each_epoch(network, optimizer, digits, tmp_path):
    settings = Settings(network=network, optimizer=optimizer, epochs=3, hidden=(16,), dropout=0.2, average=0.9)
    whole = Trainer(settings, digits)
    for epoch in range(3):
        whole.run_epoch()
        Checkpoint(str(tmp_path / str(epoch)))(whole)
    for epoch in range(2):
        resumed = Trainer(settings, digits)
        Checkpoint(str(tmp_path / str(epoch))).load(resumed)
        assert [entry.epoch for entry in resumed.history] == list(range(1, epoch + 2))
        while len(resumed.history) < 3:
            resumed.run_epoch()
        Checkpoint(str(tmp_path / f"again {epoch}"))(resumed)
        assert_same_training(tmp_path / f"again {epoch}", tmp_path / "2")


def test_an_interrupt_says_how_to_go_on(tmp_path):
    """Ctrl-C in a process of its own; what it says is run as it stands."""
    folder = tmp_path / "a folder"
    with subprocess.Popen([sys.executable, "-u", "-m", "fastopt", *command(folder, epochs=60)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "checkpoint.npz").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in out + err
    said, _, again = err.strip().partition(", go on with: fastopt ")
    assert said == f"fastopt train: stopped; epoch {Checkpoint(folder).epochs()} is saved"
    assert 1 <= Checkpoint(folder).epochs() < 60
    assert main(shlex.split(again)) == 0
    assert main(command(tmp_path / "whole", epochs=60)) == 0
    assert_same_training(folder, tmp_path / "whole")


@pytest.mark.parametrize(("options", "message"), [
    ([], "stopped; nothing was saved, which --checkpoint DIR would do after each epoch"),
    (["--checkpoint", "none"], "stopped before the first checkpoint; nothing was saved"),
])
def test_an_interrupt_without_a_checkpoint(options, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    assert main(["train", *options]) == 130
    assert capsys.readouterr().err == f"fastopt train: {message}\n"
    assert os.listdir(tmp_path) == []


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


def test_a_resumed_training_that_is_interrupted_says_resume_once(uninterrupted, monkeypatch, capsys):
    folder = uninterrupted("adam")
    monkeypatch.setattr(Trainer, "load_best", interrupted)
    assert main(command(folder, "--resume")) == 130
    assert capsys.readouterr().err.count("--resume") == 1


def test_a_finished_training_is_reported_again(capsys, tmp_path):
    assert main(command(tmp_path / "run", epochs=2)) == 0
    first = capsys.readouterr().out
    before = (tmp_path / "run" / "checkpoint.npz").read_bytes()
    history = tmp_path / "history.json"
    assert main(command(tmp_path / "run", "--resume", "--history", str(history), epochs=2)) == 0
    again = capsys.readouterr().out
    assert "Resumed after epoch 2 of 2." in again
    assert again.partition("Best epoch")[2] == first.partition("Best epoch")[2] != ""
    assert (tmp_path / "run" / "checkpoint.npz").read_bytes() == before
    assert len(json.loads(history.read_text())["history"]) == 2


def test_only_the_best_is_saved(digits, tmp_path):
    """After each epoch the file holds the best epoch so far."""
    trainer = Trainer(Settings(epochs=8, optimizer="momentum", lr=1.0), digits)
    checkpoint = Checkpoint(str(tmp_path), best_only=True)
    behind = 0
    for _ in range(8):
        trainer.run_epoch()
        checkpoint(trainer)
        assert checkpoint.epochs() == trainer.best.epoch
        behind += trainer.best.epoch < len(trainer.history)
    assert behind


# Files that no training goes on from

@pytest.fixture
def saved(digits, tmp_path):
    """A checkpoint in a file, and its trainer."""
    trainer = Trainer(Settings(epochs=3, hidden=(8,)), digits)
    trainer.run_epoch()
    checkpoint = Checkpoint(str(tmp_path / "run"))
    checkpoint(trainer)
    return checkpoint, trainer


OPTIONS = ["--epochs", "3", "--hidden", "8"]


def refused(checkpoint, capsys, *options):
    """The message with which the command refuses to go on; neither the file nor its folder has changed."""
    before = checkpoint.path.read_bytes()
    status = main(["train", "--checkpoint", str(checkpoint.path.parent), *OPTIONS, *options])
    text = capsys.readouterr()
    assert (status, text.out) == (2, "")
    assert text.err.count("\n") == 1
    assert checkpoint.path.read_bytes() == before
    assert os.listdir(checkpoint.path.parent) == ["checkpoint.npz"]
    return text.err


def test_an_existing_checkpoint_is_not_overwritten(saved, capsys):
    assert "expected a folder without a checkpoint, or --resume to go on from it" in refused(saved[0], capsys)


def test_resume_needs_a_checkpoint(tmp_path, capsys):
    assert main(["train", "--resume"]) == 2
    assert "argument --resume: expected --checkpoint DIR with it" in capsys.readouterr().err
    assert main(["train", "--resume", "--checkpoint", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (f"fastopt train: argument --resume: {tmp_path / 'checkpoint.npz'}: expected a "
                                       "checkpoint, got no such file\n")
    assert main(["train", "--save-best-only"]) == 2
    assert "argument --save-best-only: expected --checkpoint DIR with it" in capsys.readouterr().err


def test_flipped_bits(saved, digits, capsys):
    """Each is detected, or changes nothing that is read: such as a date in the archive."""
    checkpoint, trainer = saved
    whole, draws = checkpoint.path.read_bytes(), random.Random(0)
    detected = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        checkpoint.path.write_bytes(damaged)
        fresh = Trainer(trainer.settings, digits)
        before = fresh.state_dict()
        try:
            checkpoint.load(fresh)
        except CheckpointError:
            detected += 1
            assert_same(fresh.state_dict(), before)
            if detected <= 3:
                assert "argument --resume: " in refused(checkpoint, capsys, "--resume")
        else:
            assert_same(fresh.state_dict(), trainer.state_dict())
    assert detected > 100


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(saved, capsys, share):
    content = saved[0].path.read_bytes()
    saved[0].path.write_bytes(content[: int(share * len(content))])
    assert "expected an undamaged file written by fastopt.save_state" in refused(saved[0], capsys, "--resume")


def test_a_foreign_npz_file(saved, capsys):
    np.savez(saved[0].path, weights=np.zeros(3))
    assert "expected an undamaged file written by fastopt.save_state" in refused(saved[0], capsys, "--resume")


@pytest.mark.parametrize(("change", "message"), [
    ({"program": "another"}, "expected a checkpoint of fastopt train, got another program's state"),
    ({"version": 2}, "expected version 1, got 2"),
    ({"data": "0" * 64}, "expected the data of the checkpoint, got other images or labels"),
    ({"trainer": {}}, "expected a checkpoint of fastopt train, got 'settings'"),
    ({"validation_freq": 2}, "expected the checkpoint's --validation-freq 2, got --validation-freq 1"),
    ({"program": np.zeros(3)}, "expected a checkpoint of fastopt train, got another program's state"),
    ({"version": True}, "expected version 1, got True"),
    ({"trainer": np.zeros(3)}, "expected a checkpoint of fastopt train, got only integers"),
])
def test_another_content(saved, capsys, change, message):
    fastopt.save_state(saved[0].path, {**fastopt.load_state(saved[0].path), **change})
    assert message in refused(saved[0], capsys, "--resume")


def test_a_history_of_other_validations(saved, capsys):
    state = fastopt.load_state(saved[0].path)
    history = json.loads(state["trainer"]["history"])
    history[-1] |= {"validation_loss": None, "validation_accuracy": None}
    state["trainer"]["history"] = json.dumps(history)
    fastopt.save_state(saved[0].path, state)
    assert "got a history of other validations" in refused(saved[0], capsys, "--resume")


@pytest.mark.parametrize("resumed", [False, True])
def test_another_process_writes_to_the_folder(resumed, digits, tmp_path):
    """The later one stops, and leaves the file as it is."""
    settings = Settings(hidden=(8,), epochs=3)
    first, second = Trainer(settings, digits), Trainer(dataclasses.replace(settings, seed=int(not resumed)), digits)
    ours, theirs = Checkpoint(str(tmp_path / "run")), Checkpoint(str(tmp_path / "run"))
    if resumed:
        first.run_epoch()
        ours(first)
        theirs.load(second)
    second.run_epoch()
    theirs(second)
    content = ours.path.read_bytes()
    first.run_epoch()
    with pytest.raises(FileExistsError, match="expected the checkpoint of this training, got one that another process"):
        ours(first)
    assert ours.path.read_bytes() == content
    second.run_epoch()
    theirs(second)


@pytest.mark.parametrize(("options", "message"), [
    (["--lr", "0.1"], "the checkpoint's --lr 0.003, got --lr 0.1"),
    (["--hidden", "8", "8"], "the checkpoint's --hidden 8, got --hidden 8 8"),
    (["--hidden"], "the checkpoint's --hidden 8, got --hidden without a number"),
    (["--activation", "tanh"], "the checkpoint's --activation relu, got --activation tanh"),
    (["--no-batch-norm"], "the checkpoint's no --no-batch-norm, got --no-batch-norm"),
    (["--augment", "shift"], "the checkpoint's no --augment, got --augment shift=0.1"),
    (["--epochs", "4"], "the checkpoint's --epochs 3, got --epochs 4"),
    (["--seed", "1"], "the checkpoint's --seed 0, got --seed 1"),
    (["--average", "0.9"], "the checkpoint's no --average, got --average 0.9"),
    (["--batch-size", "all"], "the checkpoint's --batch-size 32, got --batch-size all"),
    (["--validation-freq", "3"], "the checkpoint's --validation-freq 1, got --validation-freq 3"),
])
def test_other_settings(saved, capsys, options, message):
    assert message in refused(saved[0], capsys, "--resume", *options)


def test_settings_that_mean_the_same_are_equal(saved):
    """A default that is written out is no other setting."""
    trainer, same = saved[1], dataclasses.replace(saved[1].settings, lr=saved[1].settings.peak_lr)
    saved[0].load(Trainer(same, trainer.data))
    assert same != trainer.settings


def test_other_data(saved, digits):
    labels = digits.test.labels.copy()
    labels[0] += 1
    other = dataclasses.replace(digits, test=data.Examples(digits.test.x, labels))
    assert fingerprint(other) != fingerprint(digits)
    with pytest.raises(CheckpointError, match="got other images or labels"):
        saved[0].load(Trainer(saved[1].settings, other))


def changes(state):
    """Names of changes, and the state of a trainer with each of them."""
    def at(path, value):
        changed = {**state}
        part = changed
        for key in path[:-1]:
            part[key] = {**part[key]}
            part = part[key]
        if value is None:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        return changed

    history = json.loads(state["history"])
    yield "an optimizer without an array", at(["optimizer", "state", "0.weight", "m"], None)
    yield "an array of another shape", at(["optimizer", "state", "0.weight", "m"], np.zeros((64, 9), np.float32))
    yield "an array of another type", at(["network", 0, "weight"], np.zeros((64, 8)))
    yield "a layer too few", at(["network", 2], None)
    yield "other statistics", at(["network", 1, "running_mean"], np.zeros(9, np.float32))
    yield "no random generator", at(["rngs", "batches"], None)
    yield "a random generator that is none", at(["rngs", "batches"], "{}")
    yield "no history", at(["history"], "[]")
    yield "a history of something else", at(["history"], '[{"time": 3}]')
    yield "a history that begins later", at(["history"], json.dumps([{**history[0], "epoch": 2}]))
    yield "other steps", at(["history"], json.dumps([{**history[0], "step": 5}]))
    yield "a loss that is text", at(["history"], json.dumps([{**history[0], "loss": "0.5"}]))
    yield "a random generator out of range", at(["rngs", "batches"], state["rngs"]["batches"].replace(
        '"inc": ', '"inc": 9' + 60 * "9"))
    yield "a parameter at another step", at(["optimizer", "steps", "0.weight"], 3)
    yield "an optimizer at another step", at(["optimizer", "step_count"], 3)
    yield "another best epoch", at(["best", "epoch"], 2)
    yield "no best epoch", at(["best"], None) | {"best": None}
    yield "a best network without a layer", at(["best", "network", 1], None)
    yield "no settings", at(["settings"], None)


def test_nothing_is_taken_over_from_a_wrong_state(saved, digits):
    _, trainer = saved
    count = 0
    for name, state in changes(trainer.state_dict()):
        other = Trainer(trainer.settings, digits)
        other.run_epoch()
        before = other.state_dict()
        with pytest.raises(ValueError, match="^state: expected that of a training with equal settings and data, got "):
            pytest.fail(f"{name}: {other.load_state_dict(state)}")
        assert_same(other.state_dict(), before)
        count += 1
    assert count == 19


def test_a_full_disk_is_one_line(monkeypatch, tmp_path, capsys):
    def full(path, state):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fastopt, "save_state", full, raising=False)
    assert main(command(tmp_path / "run", epochs=1)) == 1
    assert capsys.readouterr().err == ("fastopt train: [Errno 28] No space left on device: "
                                       f"'{tmp_path}/run/checkpoint.npz'\n")
