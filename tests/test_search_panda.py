"""`fastopt search --strategy panda`: rules on made-up curves, and a watched training."""

import csv
import dataclasses
import math

import numpy as np
import pytest

import fastopt
from fastopt.demo.search.rules import DIVERGED, RULES, figures_of, propose
from fastopt.demo.settings import Settings
from fastopt.demo.trainer import Epoch, Trainer

pytest.importorskip("sklearn")
pytest.importorskip("threadpoolctl")

from fastopt.demo import data
from fastopt.demo.search import panda as panda_module
from fastopt.demo.search.panda import Panda, carried

WATCHED = Settings(schedule="constant", warmup=0.0)


def curve(losses, accuracy=0.95, validation_accuracy=None, validation_loss=0.5):
    """Epochs with these training losses."""
    validation_accuracy = accuracy if validation_accuracy is None else validation_accuracy
    return [Epoch(i, i, 0.1, loss, accuracy, 0.0, validation_loss=validation_loss + 0.01 * i,
                  validation_accuracy=validation_accuracy) for i, loss in enumerate(losses, 1)]


def test_figures():
    before, *stage = curve([1.0, 0.8, 0.9, 0.5, 0.4], 0.97, 0.94)
    figures = figures_of(stage, before)
    assert (figures.epochs, figures.loss, figures.rises) == (4, 0.4, 1)
    assert figures.fall == pytest.approx(0.6)
    assert figures.gap == pytest.approx(0.03)
    assert figures.validation_loss == pytest.approx(0.52)
    assert figures_of(stage).fall == pytest.approx(0.5)
    assert figures_of(stage).guessing == pytest.approx(math.log(10))


@pytest.mark.parametrize(("epochs", "rule", "change"), [
    (curve([2.3, 2.28, 2.27, 2.26], 0.2), "creeps", "raise lr"),
    (curve([1.0, 0.9, 0.8, 0.7], 0.7), "creeps", "raise lr"),
    (curve([1.0, 0.6, 0.3, 0.2], 0.85), None, None),                    # falls fast
    (curve([0.5, 0.45, 0.4, 0.35], 0.95), None, None),                  # falls more slowly, but most is learnt
    (curve([0.3, 0.5, 0.2, 0.4], 0.8), "oscillates", "lower lr"),
    (curve([0.5, 0.6, 0.3, 0.2, 0.1], 0.8), None, None),                # a single rise is none
    (curve([0.100, 0.101, 0.099, 0.0985, 0.098], 0.97), "stalls", "lower lr"),
    (curve([0.05, 0.03, 0.02, 0.01], 1.0, 0.96), "overfits", "more dropout"),
    (curve([0.05, 0.06, 0.05, 0.06], 1.0, 0.96), "overfits", "more dropout"),     # the first rule that holds
    (curve([1.5, 1.4, 1.0, 0.6], 0.6, 0.4), None, None),                # a gap of a network that has not learnt yet
    (curve([3.0, 2.5, 2.6, 2.5], 0.1), "diverges", "lower lr"),
    (curve([3.0, 2.8, 2.6, 2.5], 0.1), "creeps", "raise lr")])          # the loss of guessing, but it falls
def test_rules(epochs, rule, change):
    proposal = propose(figures_of(epochs), WATCHED)
    assert (proposal and proposal.rule, proposal and proposal.change) == (rule, change)
    if proposal:
        assert proposal.reason
        assert proposal.before == WATCHED


def test_a_loss_that_is_not_finite():
    proposal = propose(DIVERGED, WATCHED)
    assert (proposal.rule, proposal.settings.lr) == ("diverges", 0.001)
    assert "no longer finite" in proposal.reason


def test_every_rule_is_tested():
    tested = {case[1] for case in test_rules.pytestmark[0].args[1]}
    assert tested - {None} == {rule.name for rule in RULES}


def test_what_was_taken_back_is_not_proposed_again():
    figures = figures_of(curve([0.05, 0.03, 0.02, 0.01], 1.0, 0.96))
    refused, changes = set(), []
    while (proposal := propose(figures, WATCHED, refused)) is not None:
        changes.append(proposal.change)
        refused.add(proposal.change)
    assert changes == ["more dropout", "more decay", "augmentation"]


def test_changes():
    figures = figures_of(curve([0.05, 0.03, 0.02, 0.01], 1.0, 0.96))

    def after(settings, *refused):
        proposal = propose(figures, settings, refused)
        return proposal and proposal.settings

    assert after(WATCHED).dropout == 0.1
    assert after(dataclasses.replace(WATCHED, dropout=0.45)).l2 == 3e-4             # no more dropout than 0.5
    assert after(WATCHED, "more dropout").l2 == 3e-4
    assert after(dataclasses.replace(WATCHED, optimizer="adamw"), "more dropout").decoupled == 0.3
    assert after(dataclasses.replace(WATCHED, hidden=())).l2 == 3e-4                # nothing to drop
    assert after(WATCHED, "more dropout", "more decay").augment == (("shift", 0.1), ("rotate", 10.0))
    falls = figures_of(curve([2.3, 2.28, 2.27, 2.26], 0.2))
    assert propose(falls, dataclasses.replace(WATCHED, lr=1e-3)).settings.lr == 3e-3
    assert propose(falls, dataclasses.replace(WATCHED, lr=5.0)) is None             # high enough
    stalls = figures_of(curve([0.1, 0.101, 0.099, 0.0985, 0.098]))
    assert propose(stalls, dataclasses.replace(WATCHED, lr=3e-3)).settings.lr == 1e-3
    assert propose(stalls, dataclasses.replace(WATCHED, lr=2e-7)) is None


# A training

@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(autouse=True)
def one_thread():
    from threadpoolctl import threadpool_limits
    with fastopt.num_threads(1), threadpool_limits(1):
        yield


@pytest.mark.parametrize(("before", "after"), [({}, {"lr": 0.001}), ({}, {"dropout": 0.1}), ({"dropout": 0.2}, {}),
                                               ({"network": "tokens"}, {"network": "tokens", "dropout": 0.1}),
                                               ({"optimizer": "adamw", "average": 0.9},
                                                {"optimizer": "adamw", "average": 0.9, "decoupled": 0.1})])
def test_a_state_is_carried_over(before, after, digits):
    """The network gives the same logits, and the optimizer has its moments."""
    old = Trainer(dataclasses.replace(WATCHED, hidden=(12, 8), **before), digits)
    old.run_epoch()
    new = Trainer(dataclasses.replace(WATCHED, hidden=(12, 8), **after), digits)
    new.load_state_dict(carried(old, new))
    assert new.history == old.history
    assert new.best == old.best
    assert np.array_equal(new.network.logits(digits.test.x), old.network.logits(digits.test.x))
    assert list(new.optimizer.state_dict()["steps"].values()) == list(old.optimizer.state_dict()["steps"].values())
    new.run_epoch()
    assert new.history[-1].loss < old.history[-1].loss


def test_without_changes_it_is_a_training(digits, monkeypatch):
    """Stages of a panda that proposes nothing have the bits of a training without stages."""
    monkeypatch.setattr(panda_module, "propose", lambda *told: None)
    panda = Panda(dataclasses.replace(WATCHED, epochs=6), digits)
    assert [stage.kept for stage in panda.watch(3, 2)] == [True] * 3
    trainer = Trainer(dataclasses.replace(WATCHED, epochs=6), digits)
    for _ in range(6):
        trainer.run_epoch()
    assert [(epoch.loss, epoch.validation_loss) for epoch in panda.trainer.history] == [
        (epoch.loss, epoch.validation_loss) for epoch in trainer.history]


@pytest.mark.parametrize(("settings", "first"), [
    ({"lr": 1e-5}, "raise lr"), ({"lr": 3.0}, "lower lr"), ({"lr": 1e20, "optimizer": "sgd", "batch_norm": False},
                                                            "lower lr")])
def test_a_bad_learning_rate_is_changed(settings, first, digits):
    settings = dataclasses.replace(WATCHED, epochs=40, **settings)
    stages = list(Panda(settings, digits).watch(5, 4))
    assert stages[0].proposal.change == first
    assert stages[1].tried == stages[0].proposal
    assert stages[1].settings == stages[0].proposal.settings
    for stage in stages[1:]:
        assert stage.kept == (not stage.figures.diverged and (
            stage.tried is None or stage.figures.validation_loss <= stage.compared))


def test_a_change_is_taken_back(digits, monkeypatch):
    """After a worse stage the next one starts from the state before."""
    def far_too_large(figures, settings, refused=()):
        return None if refused else propose(figures_of(curve([2.3, 2.29, 2.28], 0.2)), settings)._replace(
            settings=dataclasses.replace(settings, lr=3.0))

    monkeypatch.setattr(panda_module, "propose", far_too_large)
    settings = dataclasses.replace(WATCHED, epochs=20)
    panda = Panda(settings, digits)
    first, second, third = panda.watch(3, 2)
    assert (first.kept, second.kept, third.kept) == (True, False, True)
    assert second.settings.lr == 3.0
    assert third.settings == settings
    trainer = Trainer(settings, digits)
    for _ in range(4):
        trainer.run_epoch()
    assert [epoch.loss for epoch in panda.trainer.history] == [epoch.loss for epoch in trainer.history]


def test_from_a_bad_start_it_learns(digits):
    """From a learning rate a thousand times too small for 40 epochs: without a change 18 % of the images are right."""
    slow = dataclasses.replace(WATCHED, lr=1e-5, epochs=40)
    panda = Panda(slow, digits)
    list(panda.watch(10, 4))
    trainer = Trainer(slow, digits)
    for _ in range(40):
        trainer.run_epoch()
    assert panda.trainer.best.validation_accuracy > 0.97 > trainer.best.validation_accuracy + 0.3


# The command line

def test_the_command(tmp_path, capsys):
    pytest.importorskip("optuna")
    pytest.importorskip("tqdm")
    pytest.importorskip("matplotlib")
    from fastopt.__main__ import main
    arguments = ["search", "--strategy", "panda", "--epochs", "6", "--stage", "2", "--lr", "1e-4", "--table",
                 str(tmp_path / "t.csv"), "--plot", str(tmp_path / "p.svg")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 stages of 2 epochs, from lr 0.0001 on:\n\nstage 1   training loss ")
    assert "the steps are too small: lr 0.0001 → 0.0003\nstage 2 " in printed
    assert "raise lr kept: lowest validation loss " in printed
    assert "Settings at the end: lr 0.0001 → 0.000" in printed
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["stage"], row["tried"], row["kept"]) for row in rows[:2]] == [
        ("1", "", "True"), ("2", "raise lr", "True")]
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert main(arguments) == 0
    assert capsys.readouterr().out == printed
