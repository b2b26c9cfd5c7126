"""The file of a search's finished trials, to go on from: an Optuna journal that holds one study.

A trial is written when it has ended, as one line. So a search that is killed loses the trials that were running and no
other, and the file never holds a trial that is half done; an unfinished line at the end is cut off. Optuna reads it:

    optuna.load_study(study_name="fastopt search", storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(FILE)))
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from fastopt.demo.checkpoint import fingerprint
from fastopt.demo.data import Dataset
from fastopt.demo.search.caviar import Plan
from fastopt.demo.search.space import LOG, Parameter
from fastopt.demo.search.trials import COMPLETE, DIVERGED, STOPPED, Trial
from fastopt.demo.trainer import Epoch

try:
    import fcntl
except ImportError:     # Windows: nothing keeps two searches from writing the same file
    fcntl = None        # type: ignore[assignment]

STUDY = "fastopt search"
STATES = {COMPLETE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, DIVERGED: TrialState.FAIL}


class ResultsError(ValueError):
    """The file cannot be used. Nothing has been written."""


def identity(plan: Plan, data: Dataset) -> dict[str, Any]:
    """What two searches must have in common to share a file."""
    ranges = [f"{parameter.name}={','.join(map(str, parameter.choices)) or f'{parameter.low}..{parameter.high}'}"
              for parameter in plan.space.parameters]
    described = {"space": ranges, "method": plan.method,
                 "trials": plan.trials, "rounds": plan.rounds, **plan.settings.as_json(),
                 "data": f"{data.name} {fingerprint(data)[:16]}"}
    return json.loads(json.dumps(described))


class Results:
    """The file, open for this process alone as long as the `with` block lasts.

    Raises
    ------
    ResultsError
        The file is none of a search, damaged, of another search, or in use.
    OSError
        It cannot be read or written.
    """

    def __init__(self, path: str, plan: Plan, data: Dataset) -> None:
        self.path, self.plan = path, plan
        self.distributions = {parameter.name: distribution(parameter) for parameter in plan.space.parameters}
        existed = os.path.exists(path)
        self._file = open(path, "r+b" if existed else "x+b")     # noqa: SIM115, it is closed by __exit__
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise ResultsError(f"{path!r} is no regular file")
            self._lock()
            self.study, self.finished = self._open(identity(plan, data))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, trial: Trial) -> None:
        """Write a trial that has ended."""
        assert trial.end is not None
        told = {"round": trial.round, "number": trial.number, "end": trial.end,
                "history": [dataclasses.asdict(epoch) for epoch in trial.history]}
        self.study.add_trial(create_trial(
            state=STATES[trial.end], params=dict(trial.point), distributions=self.distributions,
            value=trial.score[0] if trial.end == COMPLETE else None,
            intermediate_values={epoch.epoch: epoch.validation_accuracy or 0.0 for epoch in trial.history},
            user_attrs={**told, "checksum": checksum(trial.point, told)}))

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(f"{self.path!r} is in use by another search") from None
        except OSError:     # a file system without locks
            return

    def _open(self, expected: dict[str, Any]) -> tuple[optuna.Study, dict[tuple[int, int], Trial]]:
        """The study in the file, and its trials by round and number. Nothing is written before all have been read."""
        content = self._file.read()
        whole = content[:content.rfind(b"\n") + 1]
        begun = b'{"op_code":0,"worker_id":"'
        if not content.startswith(begun[:len(content)]):
            raise ResultsError(f"{self.path!r} is no file of fastopt search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        found: dict[str, Any] | None = None
        finished: dict[tuple[int, int], Trial] = {}
        if whole:
            with self._damage_reported():
                study = optuna.load_study(study_name=STUDY, storage=self._storage())
                found = study.user_attrs.get("search")
                trials = study.get_trials(deepcopy=False)
                if found is None and (trials or study.user_attrs):
                    raise ValueError("it does not say which search it is of")
            if found is not None and found != expected:
                name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
                raise ResultsError(f"{self.path!r} is of another search: {name} {shown(found.get(name))} there, "
                                   f"{shown(expected.get(name))} here")
            with self._damage_reported():
                finished = self._thawed(trials)
        # It is this search's file, locked by this process: what a killed one left can go.
        self._file.truncate(len(whole))
        for lock in glob.glob(f"{glob.escape(self.path)}.lock*"):
            with contextlib.suppress(OSError):
                os.unlink(lock)
        storage = self._storage()
        study = (optuna.load_study if whole else functools.partial(optuna.create_study, direction="maximize"))(
            study_name=STUDY, storage=storage)
        if found is None:
            study.set_user_attr("search", expected)
        return study, finished

    def _storage(self) -> JournalStorage:
        return JournalStorage(JournalFileBackend(self.path))

    def _thawed(self, trials: Iterable[FrozenTrial]) -> dict[tuple[int, int], Trial]:
        """Optuna's trials as those of a search, by round and number."""
        thawed: dict[tuple[int, int], Trial] = {}
        for frozen in trials:
            told = dict(frozen.user_attrs)
            if told.pop("checksum", None) != checksum(frozen.params, told) or STATES[told["end"]] != frozen.state:
                raise ValueError(f"the checksum of trial {frozen.number} does not fit")
            trial = Trial(told["round"], told["number"], frozen.params,
                          self.plan.space.settings(self.plan.settings, frozen.params),
                          [Epoch(**epoch) for epoch in told["history"]], told["end"])
            if (trial.round, trial.number) in thawed:
                raise ValueError(f"trial {trial.name} is there twice")
            thawed[trial.round, trial.number] = trial
        return thawed

    @contextlib.contextmanager
    def _damage_reported(self) -> Iterator[None]:
        """Whatever Optuna and this module stumble over in a file that begins as a journal does is damage."""
        try:
            yield
        except Exception as error:
            raise ResultsError(f"{self.path!r} is damaged: {type(error).__name__}: {error}".splitlines()[0]) from None


def checksum(point: Any, told: Any) -> str:
    """Of a trial's parameters and what is told of it."""
    return hashlib.sha256(json.dumps([point, told], sort_keys=True).encode()).hexdigest()[:16]


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter's range as Optuna states it. It has no scale for 1 − x; the points are drawn by `Space` alone."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    log = parameter.kind.scale is LOG
    if parameter.kind.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=log)
    return FloatDistribution(parameter.low, parameter.high, log=log)


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


