"""Atomic replacement of state files: errors, kills and interrupts midway, permissions, temporary files."""

import os
import stat
import sys
import threading

import numpy as np
import pytest
import saves
from states import SAFETENSORS

import fastopt

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions, links and signals are POSIX's")


@pytest.fixture(params=[".npz", SAFETENSORS])
def path(request, tmp_path):
    return tmp_path / f"state{request.param}"


class Died(BaseException):
    pass


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), Died()])
@pytest.mark.parametrize("exists", [True, False])
def test_an_error_midway(path, function, error, exists, monkeypatch):
    if exists:
        fastopt.save_state(path, {"old": 1})
    before = path.read_bytes() if exists else None

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(type(error)):
            fastopt.save_state(path, {"new": np.ones(1000)})
    assert os.listdir(path.parent) == ([path.name] if exists else [])
    if exists:
        assert path.read_bytes() == before


def test_everything_is_on_the_disk_before_the_rename(path, monkeypatch):
    """The file is synced, then renamed, then the folder is synced."""
    events, fsync, replace = [], os.fsync, os.replace

    def spy_fsync(descriptor):
        status = os.fstat(descriptor)
        events.append(("fsync", "folder" if stat.S_ISDIR(status.st_mode) else status.st_size))
        fsync(descriptor)

    def spy_replace(source, target):
        events.append(("replace", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    fastopt.save_state(path, {"a": np.ones(1000)})
    size = path.stat().st_size
    assert size > 8000
    assert events == [("fsync", size), ("replace", size), ("fsync", "folder")]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not opened here")
def test_a_folder_that_is_writable_but_not_readable(tmp_path, monkeypatch):
    """The file has been replaced by then; an OSError would claim that it is unchanged."""
    opened = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_DIRECTORY:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *rest, **options)

    def refuse_list(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "listdir", refuse_list)
    fastopt.save_state(tmp_path / "state.npz", {"a": 1})
    assert fastopt.load_state(tmp_path / "state.npz") == {"a": 1}


# Errors, kills and interrupts: a moment of each, and tests/slow/test_saves.py for longer.


def test_every_system_call_fails_in_turn(path):
    """A lock that fails in either of two calls is done without; after the rename the folder is opened and flushed."""
    figures = saves.system_errors(path, OSError(5, "Input/output error"))
    assert figures["errors"] >= 6
    assert (figures["errors_after_the_rename"], figures["tolerated"]) == (2, 2)


def test_every_write_fails_in_turn(path):
    saves.device_errors(path, OSError(28, "No space left on device"))


def test_a_limit_of_the_file_size(path):
    saves.full_disk(path, [0, 1000, 200_000])


@POSIX
def test_killed_midway(path, rng):
    assert any(saves.kills(path, 10, rng)["temporaries"] for _ in range(20)), "no process was killed during a save"


def test_interrupts(path):
    """A KeyboardInterrupt comes out as such, which zipfile turned into a ValueError, and the file is whole."""
    figures = saves.interrupted_saves(path, 23)
    assert figures["old"]
    assert figures["new"]
    saves.interrupted_loads(path, 97)


# Permissions.


@POSIX
def test_permissions(path):
    before = os.umask(0o027)
    try:
        fastopt.save_state(path, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        fastopt.save_state(path, {"new": 1})
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@POSIX
def test_a_private_file_is_never_readable_by_others(path):
    """Every function call of a save looks at the modes of the files in the folder."""
    fastopt.save_state(path, {})
    path.chmod(0o600)
    modes = set()

    def look(*event):
        for entry in os.scandir(path.parent):
            modes.add(stat.S_IMODE(entry.stat().st_mode))

    before = os.umask(0)
    sys.setprofile(look)
    try:
        fastopt.save_state(path, {"a": np.ones(1000)})
    finally:
        sys.setprofile(None)
        os.umask(before)
    assert modes == {0o600}


@POSIX
def test_other_hard_links_keep_the_old_state(path):
    fastopt.save_state(path, {"old": 1})
    other = path.with_name("other" + path.suffix)
    other.hardlink_to(path)
    fastopt.save_state(path, {"new": 2})
    assert fastopt.load_state(other) == {"old": 1}


# Temporary files of killed processes. fcntl is where locks are.


def test_a_stale_file_is_removed_and_no_other(path):
    pytest.importorskip("fcntl", reason="file locks are POSIX's")
    stale = path.with_name(f".{path.name}.{'0' * 16}.fastopt.tmp")
    kept = [path.with_name(name) for name in (
        f".{path.name}.{'0' * 15}.fastopt.tmp", f".{path.name}.{'0' * 16}.tmp", f"{path.name}.{'0' * 16}.fastopt.tmp",
        f".other{path.suffix}.{'0' * 16}.fastopt.tmp", f".{path.name}.{'0' * 16}.fastopt.tmp.npz",
        f".{path.name}.{'G' * 16}.fastopt.tmp", f".{path.name.replace('.', '_')}.{'0' * 16}.fastopt.tmp")]
    folder = path.with_name(f".{path.name}.{'1' * 16}.fastopt.tmp")
    folder.mkdir()
    for file in (stale, *kept):
        file.write_bytes(b"x")
    fastopt.save_state(path, {})
    assert saves.others(path) == sorted(file.name for file in (folder, *kept))


def test_a_file_that_is_being_written_is_not_removed(path, monkeypatch):
    """Another save of the same file begins and ends while this one is about to flush its file."""
    fsync, names = os.fsync, []

    def other(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        names.extend(saves.others(path))
        thread = threading.Thread(target=fastopt.save_state, args=(path, {"other": 1}))
        thread.start()
        thread.join()
        assert fastopt.load_state(path) == {"other": 1}
        assert saves.others(path) == names
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", other)
    fastopt.save_state(path, {"own": 1})
    assert len(names) == 1
    assert fastopt.load_state(path) == {"own": 1}
    assert saves.others(path) == []


@pytest.mark.parametrize("other", ["has removed it", "has locked it", "has locked it and then removes it"])
def test_a_save_between_the_creation_of_a_file_and_its_lock(path, other, monkeypatch):
    """Another save takes the file for a stale one."""
    fcntl = pytest.importorskip("fcntl", reason="file locks are POSIX's")
    flock, names, held = fcntl.flock, [], []

    def late(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        names.extend(saves.others(path))
        if other == "has removed it":
            fastopt.save_state(path, {"other": 1})
            assert saves.others(path) == []
        else:
            held.append(os.open(path.with_name(names[0]), os.O_RDWR))
            flock(held[0], fcntl.LOCK_EX)
        try:
            flock(file, operation)
        finally:
            if other == "has locked it and then removes it":
                os.unlink(path.with_name(names[0]))

    monkeypatch.setattr(fcntl, "flock", late)
    fastopt.save_state(path, {"own": 1})
    for descriptor in held:
        os.close(descriptor)
    assert len(names) == 1
    assert fastopt.load_state(path) == {"own": 1}
    assert saves.others(path) == []
