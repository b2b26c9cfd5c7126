"""bench/measure_sweep.py: what is drawn, what is compared, and the tables and the picture made of it."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import draws
import measure_sweep
import numpy as np
import pytest
import report
import sweep

import fastopt
from fastopt.bench import activation, contenders, timing
from fastopt.bench.contenders import CONTENDERS, Contender

FOLDER = os.path.dirname(fastopt.__path__[0])
BENCH = os.path.dirname(measure_sweep.__file__)
SMALL = ["--count", "1", "--limit", "3000", "--rounds", "2"]


def drawn(name, count, seed=1, limit=None):
    rng = np.random.default_rng(seed)
    return [draw for _ in range(count) for draw in draws.FAMILIES[name](rng, limit)]


def test_log_uniform():
    rng = np.random.default_rng(0)
    numbers = np.array([draws.log_uniform(rng, 2, 131072) for _ in range(20_000)])
    assert numbers.min() == 2
    assert numbers.max() <= 131072
    counts = np.histogram(np.log2(numbers + 0.5), bins=np.arange(1, 18))[0]     # 16 octaves
    assert counts.min() > 1000
    assert {draws.log_uniform(rng, 1, 1) for _ in range(5)} == {1}


@pytest.mark.parametrize("name", draws.FAMILIES)
def test_a_seed_gives_the_same_draws_and_another_seed_others(name):
    def shapes(seed, count=10):
        return [(draw.kernel, str(draw.workload), draw.allocates) for draw in drawn(name, count, seed)]

    assert shapes(1) == shapes(1)
    assert shapes(1, 4) == shapes(1)[: len(shapes(1, 4))]
    assert shapes(1) != shapes(2)


@pytest.mark.parametrize(("name", "kernels", "largest"), [
    ("adam", 1, draws.LARGEST_TENSOR), ("optimizers", 1, draws.LARGEST_TENSOR), ("models", 1, draws.LARGEST_MODEL),
    ("batch_norm", 3, draws.LARGEST), ("softmax", 3, draws.LARGEST), ("activation", 2, draws.LARGEST),
    ("dropout", 2, draws.LARGEST), ("layer_norm", 4, draws.LARGEST), ("embedding", 2, draws.LARGEST),
])
def test_draws(name, kernels, largest):
    found = drawn(name, 60)
    assert len(found) == 60 * kernels
    assert len({draw.kernel for draw in found}) == kernels
    assert len({draw.workload.shape for draw in found}) >= 55
    sizes = [draw.workload.elements for draw in found]
    assert max(sizes) <= largest
    assert min(sizes) < 1000 < 1_000_000 < max(sizes)
    assert max(draw.workload.elements for draw in drawn(name, 20, limit=500)) <= 500


def test_batch_norm_is_drawn_in_every_layout_with_at_least_two_values_a_channel():
    found = drawn("batch_norm", 100)
    assert {draw.allocates for draw in found} == {False, True}
    assert {draw.workload.shape.count(",") for draw in found} == {1, 3, 4}     # (N, C), images, those "channels last"


def test_activation_is_drawn_with_every_function_with_and_without_dropout():
    found = [draw.workload.title for draw in drawn("activation", 100)]
    assert {title.split(", ")[1] for title in found} == set(activation.FUNCTIONS)
    assert 50 < sum("dropout" in title for title in found) < 150


def test_embedding_is_drawn_with_tables_that_fit_in_memory():
    found = [draw.workload.shape.replace(",", "").strip("(").split() for draw in drawn("embedding", 100)]
    assert max(int(columns.strip(")")) * int(rows) for _, columns, _, rows in found) <= draws.LARGEST


def test_every_new_family_has_rows(tmp_path, numpy_and_one_peer):
    """Each result is checked; layer normalisation is compared with results in given arrays alone."""
    file, families = tmp_path / "sweep.json", ["activation", "dropout", "layer_norm", "embedding"]
    measure_sweep.main([*SMALL, "--count", "4", *families, "--json", str(file)])
    rows = sweep.load(file).rows
    assert len(rows) == 4 * (2 + 2 + 4 + 2)
    for row in rows:
        assert row.ours() == ("fastopt new array" if row.allocates else "fastopt")
        assert not {"fastopt in place", "reference", "numpy out="} & set(row.times)
    assert {row.allocates for row in rows if "norm" not in row.kernel} == {False, True}


def make_row(ours, peers, *, kernel="log_softmax", shape="(8, 4)", elements=32, allocates=False, numpy=None,
             before=None):
    name = " new array" if allocates else ""
    times = {f"fastopt{name}": [ours * 5, ours, ours], **{peer: [s, s, s * 9] for peer, s in peers.items()}}
    if numpy:
        times["numpy"] = [numpy]
    if before:
        times[f"before{name}"] = [before] * 3
    return sweep.Row(kernel, kernel, shape, elements, allocates, times)


def make_sweep(level="v4", before=None):
    return sweep.Sweep(3, level, 2, "A Processor, 2 CPUs", [
        make_row(1e-6, {"torch": 4e-6, "torch out=": 2e-6, "jax": 9e-6}, numpy=6e-6, before=before,
                 elements=100_000),
        make_row(2e-6, {"jax": 1e-6}, allocates=True, shape="(2, 16)", before=before),
        make_row(1e-6, {"onednn": 8e-6}, kernel="softmax", before=before),
        make_row(1e-6, {}, kernel="lion", numpy=2e-6),
    ])


def test_the_fastest_form_of_the_fastest_peer_counts():
    row = make_sweep().rows[0]
    assert (row.peer, row.ratio(), row.numpy) == ("torch out=", pytest.approx(2.0), pytest.approx(6.0))
    alone = make_sweep().rows[3]
    assert (alone.peer, alone.numpy) == (None, pytest.approx(2.0))


@pytest.mark.parametrize(("times", "rounds"), [
    ({"near": 2.0, "nearer": 1.5, "far": 9.0}, {"fastopt": 2}),         # no peer is as fast as ours
    ({"near": 1.2, "nearer": 0.9, "far": 9.0}, {"fastopt": 8, "near": 8, "nearer": 8}),
    ({}, {"fastopt": 2}),
])
def test_a_row_that_is_not_decided_gets_more_rounds_of_the_peers_that_matter(monkeypatch, times, rounds):
    seconds = {"fastopt": 1.0, **times}

    def fake_race(calls, rounds):
        return {name: [seconds[name]] * rounds for name in calls}

    draw, = draws.draw_adam(np.random.default_rng(0), 100)
    monkeypatch.setattr(measure_sweep, "contenders", lambda workload: seconds)
    monkeypatch.setattr(measure_sweep, "prepare", lambda workload, name: (Contender(lambda: None), 0.0))
    monkeypatch.setattr(measure_sweep, "race", fake_race)
    row = measure_sweep.measure(draw, 2, {})
    assert {name: len(column) for name, column in row.times.items()} == {**dict.fromkeys(seconds, 2), **rounds}


def test_tables():
    found = make_sweep()
    lines = found.table().splitlines()
    assert lines[2:] == ["| log_softmax | 2 | 1.00 | 2.00 | 50% | 0.50 | 6.00 |",
                         "| softmax | 1 | 8.00 | – | 0% | 8.00 | – |", "| all | 3 | 2.00 | 2.00 | 33% | 0.50 | 6.00 |"]
    assert found.worst().splitlines()[2:] == ["| log_softmax, new array | (2, 16) | 62.5 | jax | 0.50 |"]
    assert found.summary() == (
        "At v4, over 3 random workloads, the fastest peer takes 2.00 times as long as fastopt in the geometric mean "
        "(2.00 from 100,000 elements on); 1 ratios are below 1, the lowest is 0.50 (log_softmax, new array (2, 16), "
        "jax).")
    before = make_sweep(before=4e-6)
    assert before.table().splitlines()[-1] == "| all | 3 | 2.00 | 0.63 | 2.00 | 0.50 | 33% | 67% | 0.50 | 0.25 | 6.00 |"


def test_before_may_lack_a_function():
    """Another build without it has no rows of it."""
    found = make_sweep(before=4e-6)
    found.rows.append(make_row(1e-6, {"jax": 2e-6}, kernel="activation_forward"))
    assert "| activation_forward | 1 | 2.00 | – | – | – | 0% | – | 2.00 | – | – |" in found.table().splitlines()


def test_no_peer():
    found = sweep.Sweep(0, "v3", 1, "", make_sweep().rows[3:])
    assert found.summary() == "No peer was installed."
    assert len(found.table().splitlines()) == 2


@pytest.fixture
def files(tmp_path):
    """Two runs at v4, one at v3."""
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, level in zip(paths, ("v3", "v4", "v4"), strict=True):
        make_sweep(level).save(path)
    return paths


def test_runs_of_a_level_count_together(files):
    high, low = sweep.merged(files)
    assert (high.level, low.level, high.seed) == ("v4", "v3", "3")
    assert (len(high.rows), low.rows) == (8, make_sweep().rows)


def test_the_seeds_of_merged_runs_are_named(files):
    replace(sweep.load(files[2]), seed=4).save(files[2])
    assert sweep.merged(files)[0].seed == "3 and 4"


def test_report(files, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/speed.md"):
        (tmp_path / name).write_text("a\n<!-- begin: sweep -->\n<!-- end: sweep -->\nb\n", "utf-8")
    arguments = ["--root", str(tmp_path), "--sweep", *map(str, files)]
    assert report.main(arguments) == 0
    readme, page = ((tmp_path / name).read_text("utf-8") for name in ("README.md", "docs/speed.md"))
    assert readme.count("in the geometric mean") == 2
    assert "(docs/speed_sweep.svg)" in readme
    assert page.index("### v4") < page.index("### v3")
    assert page.count("| all |") == 2
    pytest.importorskip("matplotlib")
    picture = (tmp_path / "docs/speed_sweep.svg").read_bytes()
    assert ET.fromstring(picture).tag.endswith("svg")
    assert b"v3: 2.0" in picture or b"v3: 1.0" in picture
    report.main(arguments)
    assert (tmp_path / "docs/speed_sweep.svg").read_bytes() == picture


@pytest.fixture
def numpy_and_one_peer(monkeypatch):
    """No library but NumPy, and a peer that is fastopt in two calls."""
    for name in ("torch", "numba", "jax", "tensorflow", "thinc", "deepspeed"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(timing, "WARM", 0.0)
    for kernel in ("log_softmax", "softmax"):
        monkeypatch.setitem(CONTENDERS[kernel], "twice", twice)


def twice(problem):
    function = getattr(fastopt, problem.kernel)
    return Contender(lambda: (function(problem.x), function(problem.x, out=problem.out))[1])


def test_program(capsys, tmp_path, numpy_and_one_peer):
    file = tmp_path / "sweep.json"
    measure_sweep.main([*SMALL, "--count", "6", "softmax", "adam", "--json", str(file)])
    output = capsys.readouterr()
    assert "log_softmax: the lowest" in output.out
    assert "(torch is not installed)" in output.err
    found = sweep.load(file)
    assert len(found.rows) == 3 * 6 + 6
    assert {row.allocates for row in found.rows} == {False, True}
    for row in found.rows:
        assert row.elements <= 3000
        assert row.ours() == ("fastopt new array" if row.allocates else "fastopt")
        assert (row.peer == "twice") == (row.workload in ("log_softmax", "softmax") and not row.allocates)
        assert not {"roof", "reference", "numpy out="} & set(row.times)
    with pytest.raises(SystemExit):
        measure_sweep.main(["sgd"])
    assert "argument FAMILY: expected some of adam, optimizers" in capsys.readouterr().err


def test_a_wrong_peer_is_named_and_not_timed(monkeypatch, capsys, numpy_and_one_peer):
    monkeypatch.setitem(CONTENDERS["softmax"], "wrong", lambda problem: Contender(lambda: problem.x))
    measure_sweep.main([*SMALL, "--count", "4", "softmax"])
    output = capsys.readouterr()
    assert "wrong's result differs" in output.err
    assert "| wrong |" not in output.out


def test_our_own_wrong_result_is_an_error(monkeypatch, numpy_and_one_peer):
    for name in ("fastopt", "fastopt new array"):
        monkeypatch.setitem(CONTENDERS["softmax"], name, lambda problem: Contender(lambda: problem.x, allocates=True))
    with pytest.raises(contenders.WrongResultError, match="fastopt.*'s result differs"):
        measure_sweep.main([*SMALL, "softmax"])


@pytest.mark.parametrize("level", measure_sweep.LIMITS)
def test_peers_are_limited_to_the_level(monkeypatch, level):
    monkeypatch.setattr(os, "environ", environment := {"ATEN_CPU_CAPABILITY": "avx512"})
    measure_sweep.limit_peers("v4")
    assert environment == {"ATEN_CPU_CAPABILITY": "avx512"}
    measure_sweep.limit_peers(level)
    assert environment["ATEN_CPU_CAPABILITY"] != "avx512"
    assert environment["ONEDNN_MAX_CPU_ISA"]


BEFORE = """
import sys
import measure_sweep, sweep
from fastopt.bench import timing
timing.WARM = 0.0
from fastopt.bench.contenders import CONTENDERS, Contender
for kernel in ("adam", "AdamW", "SGD", "batch_norm_forward", "softmax"):
    CONTENDERS[kernel]["peer"] = CONTENDERS[kernel]["fastopt"]
file, folder = sys.argv[1:]
measure_sweep.main(["--count", "1", "--limit", "3000", "--rounds", "2", "--json", file, "--before", folder])
"""


def test_another_build_takes_part(tmp_path):
    """In a process of its own, since a second copy of every module is imported."""
    file = tmp_path / "sweep.json"
    subprocess.run([sys.executable, "-c", BEFORE, str(file), FOLDER], check=True, cwd=tmp_path, capture_output=True,
                   env=os.environ | {"PYTHONPATH": os.pathsep.join([BENCH, FOLDER])})
    found = sweep.load(file)
    assert all(row.ours("before") for row in found.rows)
    assert found.has_before
    assert found.table().splitlines()[0].count("before") == 4


def test_another_build_is_the_one_in_the_folder(tmp_path):
    code = "import sys, another_build; another_build.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([BENCH, FOLDER])}, cwd=tmp_path)
    assert "expected a build of fastopt in" in done.stderr
