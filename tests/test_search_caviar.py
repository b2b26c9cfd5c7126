"""`fastopt search`: trials in parallel processes, successive halving, the file of results, and going on from it."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

import fastopt
from fastopt.__main__ import main

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")
pytest.importorskip("optuna")

from fastopt.demo import data
from fastopt.demo.arguments import Parser, add_settings, settings_from
from fastopt.demo.search import caviar
from fastopt.demo.search import workers as processes
from fastopt.demo.search.caviar import Plan, Round, search
from fastopt.demo.search.halving import Halving, rungs
from fastopt.demo.search.results import Results, ResultsError
from fastopt.demo.search.space import Space
from fastopt.demo.search.table import command, table
from fastopt.demo.search.trials import COMPLETE, DIVERGED, STOPPED, Trial, ranked
from fastopt.demo.search.workers import Part, Workers
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Epoch, Trainer

SPACE = Space.parse(["lr=1e-4..1", "units=8..32", "layers=1..2"])
PLAN = Plan(SPACE, Settings(epochs=6), trials=8, rounds=2)


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def two(digits):
    with Workers(2, digits) as workers:
        yield workers


@pytest.fixture(scope="module")
def trials(two):
    return search(PLAN, two, {}, lambda trial: None, lambda *told: None)


def record(trials):
    """What must be the same in every search of a plan: all but seconds."""
    return [(trial.name, trial.point, trial.end, [dataclasses.replace(epoch, seconds=0.0, augmenting=0.0)
                                                  for epoch in trial.history]) for trial in trials]


def epoch(number, accuracy, loss=1.0):
    return Epoch(number, number, 0.1, 1.0, accuracy, 0.0, validation_loss=loss, validation_accuracy=accuracy)


# Successive halving

@pytest.mark.parametrize(("epochs", "expected"), [(1, []), (2, []), (3, [1]), (6, [1]), (9, [1, 3]), (20, [2, 6]),
                                                  (30, [3, 9]), (100, [11, 33])])
def test_rungs(epochs, expected):
    assert rungs(epochs) == expected


def test_a_trial_goes_on_if_it_is_among_the_best_third():
    halving = Halving(7, 9)
    accuracies = [0.5, 0.4, 0.6, 0.55, 0.7, 0.65, 0.65]
    assert [halving.goes_on(i, [epoch(1, accuracy)], 0) for i, accuracy in enumerate(accuracies)] == [
        True, False, True, False, True, True, True]     # the best of the first 5, then of the first 6 and 7 the second
    third = [[epoch(i, accuracy) for i in (1, 2, 3)] for accuracy in (0.9, 0.8)]
    assert [halving.goes_on(i, history, 1) for i, history in zip((0, 2), third, strict=True)] == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_trials_finish_does_not_matter(seed, monkeypatch):
    """With made-up trainings that finish in random orders."""
    drawn = np.random.default_rng(3).random((30, 9))
    of_settings = {}

    def run(jobs, rng):
        trials = [Trial(1, i + 1, {}, Settings(seed=i, epochs=9)) for i in range(30)]
        of_settings.update((trial.settings, drawn[i]) for i, trial in enumerate(trials))
        waiting = []

        class Pool:
            def submit(self, function, settings, state, until):
                future = Future()
                waiting.append((future, settings, until))
                return future

        pool = Pool()
        pool.jobs = jobs

        def wait(running, return_when):
            future, settings, until = waiting.pop(rng.randrange(len(waiting)))
            history = [epoch(i + 1, of_settings[settings][i]) for i in range(until)]
            diverges = settings.seed % 4 == 0 and until > 1
            future.set_result(Part(history[:2] if diverges else history, None if diverges else {}))
            return [future], None

        monkeypatch.setattr(caviar, "wait", wait)
        ended = []
        Round(trials, 9, ended.append).run(pool)
        assert len(ended) == 30
        return [(trial.end, len(trial.history)) for trial in trials]

    alone = run(1, random.Random(0))
    assert {end for end, _ in alone} == {COMPLETE, STOPPED, DIVERGED}
    for jobs in (1, 2, 3, 8, 40):
        assert run(jobs, random.Random(seed)) == alone


# Real trainings

def test_trials_of_a_search(trials):
    assert [trial.name for trial in trials] == [f"{r}.{i}" for r in (1, 2) for i in range(1, 9)]
    assert {trial.end for trial in trials} >= {COMPLETE, STOPPED}
    for trial in trials:
        assert len(trial.history) == {COMPLETE: 6, STOPPED: 1}[trial.end]
    inner = SPACE.zoom([trial.point for trial in trials[:8]], [trial.score for trial in trials[:8]])
    for trial in trials[8:]:
        for parameter in inner.parameters:
            assert parameter.low <= trial.point[parameter.name] <= parameter.high


def test_one_process_gives_the_same_trials(trials, digits):
    with Workers(1, digits) as workers:
        assert record(search(PLAN, workers, {}, lambda trial: None, lambda *told: None)) == record(trials)


def test_another_seed_gives_other_points():
    other = dataclasses.replace(PLAN, settings=Settings(epochs=6, seed=1))
    assert PLAN.points(SPACE, 1) == PLAN.points(SPACE, 1)
    assert PLAN.points(SPACE, 1) != PLAN.points(SPACE, 2)
    assert PLAN.points(SPACE, 1) != other.points(SPACE, 1)


def test_the_command_repeats_the_best_trial_bit_by_bit(trials, digits):
    best = ranked(trials)[0]
    parser = Parser()
    add_settings(parser)
    settings = settings_from(parser.parse_args(command(best.settings).split()[2:]))
    assert settings == best.settings
    with fastopt.num_threads(1), threadpoolctl.threadpool_limits(1):
        trainer = Trainer(settings, digits)
        for _ in range(settings.epochs):
            trainer.run_epoch()
    assert record([dataclasses.replace(best, history=trainer.history)]) == record([best])
    assert trainer.best.epoch == best.best.epoch


def test_the_command_as_a_process(trials, tmp_path):
    """As it is printed."""
    best = ranked(trials)[0]
    words = command(best.settings).split()[1:]
    subprocess.run([sys.executable, "-m", "fastopt", *words, "--no-comparison", "--history", tmp_path / "h.json"],
                   check=True, capture_output=True, timeout=120)
    history = [Epoch(**entry) for entry in json.loads((tmp_path / "h.json").read_text())["history"]]
    assert record([dataclasses.replace(best, history=history)]) == record([best])


@pytest.mark.parametrize("settings", [
    Settings(), Settings(hidden=(), lr=1e-5), Settings(batch_norm=False, batch_size=None, activation="gelu"),
    Settings(augment=(("shift", 0.1), ("rotate", 3.5)), momentum=0.98765, optimizer="nesterov", average=0.99),
    Settings(optimizer="adamw", decoupled=1e-30, schedule="constant", warmup=0.0, seed=9, epochs=1)])
def test_command_has_all_settings(settings):
    parser = Parser()
    add_settings(parser)
    assert settings_from(parser.parse_args(command(settings).split()[2:])) == settings


def test_ranked_and_table():
    trials = [Trial(1, 1, {"lr": 0.1}, Settings(), [epoch(1, 0.9, 0.3), epoch(2, 0.9, 0.2)], COMPLETE),
              Trial(1, 2, {"lr": 0.2}, Settings(), [epoch(1, 0.9, 0.1), epoch(2, 0.8, 0.1)], COMPLETE),
              Trial(1, 3, {"lr": 0.3}, Settings(), [epoch(1, 0.99)], STOPPED),
              Trial(1, 4, {"lr": 1.0}, Settings(), [], DIVERGED)]
    assert [trial.number for trial in ranked(trials)] == [2, 1, 3, 4]
    assert table(trials).splitlines() == [
        "trial  accuracy    loss      epochs   lr",
        "  1.2    90.00%  0.1000           2  0.2",
        "  1.1    90.00%  0.2000           2  0.1",
        "  1.3    99.00%  1.0000   1 stopped  0.3",
        "  1.4         -       -  0 diverged    1"]


# The file of results

def finished(path, digits, plan=PLAN):
    with Results(str(path), plan, digits) as results:
        return results.finished


@pytest.fixture
def kept(tmp_path, trials, digits):
    """A file with all trials of a search."""
    path = tmp_path / "results"
    with Results(str(path), PLAN, digits) as results:
        for trial in trials:
            results.keep(trial)
    return path


def test_results_hold_the_trials(kept, trials, digits):
    read = finished(kept, digits)
    assert record(read.values()) == record(trials)
    assert [trial.settings for trial in read.values()] == [trial.settings for trial in trials]


def test_optuna_reads_the_results(kept, trials):
    import optuna
    study = optuna.load_study(study_name="fastopt search", storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(kept))))
    assert study.best_value == ranked(trials)[0].score[0]
    assert len(study.trials) == len(trials)


def test_nothing_is_trained_again(kept, trials, digits, two):
    started = kept.read_bytes()
    with Results(str(kept), PLAN, digits) as results:
        ended = []
        again = search(PLAN, two, results.finished, ended.append, lambda *told: None)
    assert ended == []
    assert record(again) == record(trials)
    assert kept.read_bytes() == started


@pytest.mark.parametrize("seed", range(4))
def test_some_are_trained_again(kept, trials, digits, two, seed):
    """Any set of finished trials leads to the same result."""
    rng = random.Random(seed)
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:2] + [line for line in lines[2:] if rng.random() < 0.5]))
    with Results(str(kept), PLAN, digits) as results:
        before = len(results.finished)
        again = search(PLAN, two, results.finished, results.keep, lambda *told: None)
    assert before < len(trials)
    assert record(again) == record(trials)
    assert len(finished(kept, digits)) == len(trials)


def test_a_file_that_ends_anywhere(kept, trials, digits, tmp_path):
    """A killed search leaves any beginning of the file, maybe with a lock of Optuna's."""
    content = kept.read_bytes()
    lines = content.splitlines(keepends=True)
    ends = np.cumsum([len(line) for line in lines])
    for size in [0, 1, 30, *(end + step for end in ends[:-1] for step in (-1, 0, 1, 200)), len(content) - 1]:
        path = tmp_path / "cut"
        path.write_bytes(content[:size])
        lock = tmp_path / "cut.lock"
        lock.symlink_to(path)
        started = time.monotonic()
        whole = max(int((ends <= size).sum()) - 2, 0)
        with Results(str(path), PLAN, digits) as results:
            assert len(results.finished) == whole
            results.keep(trials[-1])
        assert time.monotonic() - started < 5
        assert not lock.is_symlink()
        assert len(finished(path, digits)) == whole + 1
        path.unlink()


@pytest.mark.parametrize("change", [{"trials": 9}, {"rounds": 1}, {"method": "grid"},
                                    {"space": Space.parse(["lr=1e-4..1", "units=8..32", "layers=1..3"])},
                                    {"settings": Settings(epochs=7)}, {"settings": Settings(epochs=6, seed=1)}])
def test_results_of_another_search(kept, digits, change):
    before = kept.read_bytes()
    with pytest.raises(ResultsError, match=r"results' is of another search: \w+ .* there, .* here"):
        Results(str(kept), dataclasses.replace(PLAN, **change), digits)
    assert kept.read_bytes() == before


def test_results_of_other_data(kept, digits):
    other = dataclasses.replace(digits, test=digits.validation)
    with pytest.raises(ResultsError, match="another search: data"):
        Results(str(kept), PLAN, other)


def test_damaged_results(kept, digits):
    """Bytes that change, lines that are repeated or out of place: an error of one line, and the file stays as it is."""
    content = kept.read_bytes()
    lines = content.splitlines(keepends=True)
    rng = random.Random(0)
    damaged = [b"hello", b"{}\n", b"[1]\n" + content, content.replace(b'"search"', b'"seabch"', 1),
               b"".join([*lines, lines[-1]]), b"".join([*lines[:3], b"\n", *lines[3:]]),
               b"".join([*lines[:3], lines[4][:50], *lines[5:]]), content.replace(b'"round":1', b'"round":3', 1),
               b"".join([lines[0], *lines[2:]]), b"".join(lines[1:]), b"\0" * 4096]
    told = [at for at in range(content.index(b'"history"'), content.index(b'"checksum"'))
            if content[at:at + 1].isdigit() and content[at - 1:at] in (b":", b".")]     # not the 17th of a float
    damaged += [content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]
                for at in (content.index(b"op_code"), *rng.sample(told, 5))]
    for damage in damaged:
        kept.write_bytes(damage)
        with pytest.raises(ResultsError) as caught:
            Results(str(kept), PLAN, digits)
        assert len(str(caught.value).splitlines()) == 1
        assert kept.read_bytes() == damage


def test_results_are_for_one_search_at_a_time(kept, digits):
    pytest.importorskip("fcntl")
    with Results(str(kept), PLAN, digits), pytest.raises(ResultsError, match="in use by another search"):
        Results(str(kept), PLAN, digits)


# Interrupts and kills

COMMAND = [sys.executable, "-m", "fastopt", "search", "--space", "lr=1e-4..1", "units=8..64", "dropout=0..0.5",
           "--trials", "9", "--rounds", "2", "--epochs", "9", "--jobs", "2", "--results"]


def group(path, **options):
    return subprocess.Popen([*COMMAND, str(path)], start_new_session=True, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def alive(session):
    """The processes of a session that are there and are not zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry))
    return found


def gone(session, seconds=10.0):
    """Whether all processes of a session end within some seconds."""
    end = time.monotonic() + seconds
    while alive(session) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(session)


def best_lines(printed):
    """What a search says at the end, but for the seconds."""
    return printed[printed.index("trial  accuracy"):]


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def until(path, lines, process):
    """Wait until so many trials are in the file."""
    end = time.monotonic() + 60
    while lines_of(path) < lines + 2 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_killed_and_started_again(tmp_path, capsys):
    """SIGKILL of all processes at random moments, or of the first one alone: the result is that of one search."""
    rng = random.Random(int(os.environ.get("FASTOPT_TEST_SEED", "0")))
    path, whole = tmp_path / "killed", tmp_path / "whole"
    before = 0
    for only_first in (False, True):
        process = group(path)
        until(path, before + rng.randrange(1, 6), process)
        time.sleep(rng.random() * 0.05)
        assert process.poll() is None, process.communicate()
        if only_first:
            process.kill()      # the workers notice
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert gone(process.pid)
        assert lines_of(path) - 2 >= before
        before = max(lines_of(path) - 2, 0)
    assert main([*COMMAND[3:], str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{min(before, 9)} of them finished before" in printed
    assert main([*COMMAND[3:], str(whole), "--jobs", "1"]) == 0
    assert best_lines(capsys.readouterr().out) == best_lines(printed)
    contents = [sorted(map(without_times, file.read_text().splitlines()[2:])) for file in (path, whole)]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 18


def without_times(line):
    """A line of the file without what differs from one search to the next."""
    trial = json.loads(line)
    for entry in trial["user_attrs"]["history"]:
        entry["seconds"] = 0.0
    return json.dumps({key: value for key, value in trial.items() if key in ("state", "value", "params", "user_attrs")
                       } | {"user_attrs": {**trial["user_attrs"], "checksum": None}}, sort_keys=True)


def test_an_interrupt_waits_until_the_pool_is_made(monkeypatch):
    """Whichever thread gets the signal: a semaphore that is half made would never be removed."""
    made = []

    def pool(*_):
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=signal.raise_signal, args=(signal.SIGINT,))
        thread.start()
        thread.join()
        made.append(True)

    monkeypatch.setattr(processes, "ProcessPoolExecutor", pool)
    with pytest.raises(KeyboardInterrupt):
        Workers(1, None)
    assert made
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@linux
def test_interrupted(tmp_path):
    """Ctrl-C: one line, status 130, no process left; an interrupt before anything runs leaves no process either."""
    path = tmp_path / "results"
    for trials in (0, 2):
        process = group(path)
        if trials:
            until(path, trials, process)
        else:
            while not path.exists() and process.poll() is None:
                time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)       # as a terminal does
        _, errors = process.communicate(timeout=30)
        assert gone(process.pid, 3)
        assert errors == f"fastopt search: stopped; the finished trials are in {path}, the same command goes on\n"
        assert process.returncode == 130
