"""bench/report.py: the tables from pytest-benchmark's JSON, where they are put, and the pictures."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import bench_activation
import bench_adam
import bench_adaptive
import bench_batchnorm
import bench_dropout
import bench_embedding
import bench_layernorm
import bench_layerwise
import bench_sgd
import bench_sign
import bench_softmax
import pytest
import report

import fastopt

ROOT = Path(__file__).parents[1]
FAMILIES = (bench_activation, bench_adam, bench_adaptive, bench_batchnorm, bench_dropout, bench_embedding,
            bench_layernorm, bench_layerwise, bench_sgd, bench_sign, bench_softmax)


def benchmark(kernel, shape, elements, contender, median, *, threads=2, level=None, allocates=False):
    return {"group": f"{kernel} {shape}", "name": f"test[{contender}]", "stats": {"median": median},
            "extra_info": {"kernel": kernel, "shape": shape, "elements": elements, "contender": contender,
                           "threads": threads, "level": level, "allocates": allocates, "bytes/element": 28,
                           "largest error": 1e-8}}


def results(scale=1.0):
    """Adam at three sizes (the largest lost to torch), a log-softmax in two forms, and an optimizer without peers."""
    found = []
    for shape, n, ours, torch, numba in (("1k", 1000, 0.5e-6, 5e-6, 1e-6), ("1M", 10**6, 1e-4, 3e-4, 2e-4),
                                         ("50M", 5 * 10**7, 0.02, 0.016, 0.03)):
        found += [benchmark("adam", shape, n, "fastopt", ours * 2 * scale, threads=1, level="v4"),
                  benchmark("adam", shape, n, "fastopt", ours * scale, level="v4"),
                  benchmark("adam", shape, n, "fastopt", ours * 1.5 * scale, level="v3"),
                  benchmark("adam", shape, n, "fastopt", ours / 10, threads=1, level="baseline"),
                  benchmark("adam", shape, n, "torch", torch * scale),
                  benchmark("adam", shape, n, "torch", torch / 100, threads=1),
                  benchmark("adam", shape, n, "numba", numba / 100, threads=3),
                  benchmark("adam", shape, n, "numba", numba * scale),
                  benchmark("adam", shape, n, "numpy", ours * 40 * scale, threads=1),
                  benchmark("adam", shape, n, "numpy out=", ours * 20 * scale, threads=1),
                  benchmark("adam", shape, n, "reference", ours / 5 * scale, threads=None),
                  benchmark("adam", shape, n, "roof", ours * 0.9 * scale, level="v4")]
    found += [benchmark("log_softmax", "(8, 4)", 32, "fastopt", 1e-6, level="v4"),
              benchmark("log_softmax", "(8, 4)", 32, "fastopt new array", 2e-6, level="v4", allocates=True),
              benchmark("log_softmax", "(8, 4)", 32, "torch", 3e-6, allocates=True),
              benchmark("log_softmax", "(8, 4)", 32, "torch out=", 2.5e-6),
              benchmark("log_softmax", "(8, 4)", 32, "jax", 2.2e-6, allocates=True),
              benchmark("lion", "1k", 1000, "fastopt", 1e-6, level="v3"),
              {"group": "other", "name": "no kernel", "stats": {"median": 1.0}, "extra_info": {}}]
    return {"machine_info": {"cpu": {"brand_raw": "A Processor", "count": 2}}, "benchmarks": found}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()), "utf-8")
    return path


@pytest.fixture
def project(tmp_path):
    """README.md and docs/ with the marks, and nothing else."""
    root = tmp_path / "project"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text("# top\n<!-- begin: speed -->\nold\n<!-- end: speed -->\nbottom\n", "utf-8")
    (root / "docs/speed.md").write_text(
        "<!-- begin: speed -->\n<!-- end: speed -->\n<!-- begin: epoch -->\n?\n<!-- end: epoch -->\n", "utf-8")
    return root


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if line]


def test_rows(file):
    """Ours: most threads, best level. Peers: the fastest of those with as many threads as they can use, no more than
    ours; neither NumPy, reference nor roof."""
    entries, machine = report.load([file])
    rows = report.table_rows(entries)
    assert machine == "A Processor, 2 CPUs"
    assert cells(report.table(rows)) == [
        ["adam", "1k", "0.500", "numba", "2.00", "20.0", "90%"],
        ["adam", "1M", "0.100", "numba", "2.00", "20.0", "90%"],
        ["adam", "50M", "0.400", "torch", "**0.80**", "20.0", "90%"],
        ["log_softmax", "(8, 4)", "31.2", "jax", "2.20", "–", "–"],
        ["log_softmax, new array", "(8, 4)", "62.5", "jax", "1.10", "–", "–"],
        ["lion", "1k", "1.000", "–", "–", "–", "–"],
    ]


def test_a_new_array_is_compared_with_new_arrays_alone(file):
    found = results()
    found["benchmarks"].append(benchmark("log_softmax", "(8, 4)", 32, "onednn out=", 0.5e-6))
    file.write_text(json.dumps(found), "utf-8")
    given, new = report.table_rows(report.load([file])[0])[3:5]
    assert (given.peer.contender, given.ratio) == ("onednn out=", pytest.approx(0.5))
    assert (new.peer.contender, new.ratio) == ("jax", pytest.approx(1.1))


def test_summary(file):
    rows = report.table_rows(report.load([file])[0])
    mean = (2.0 * 2.0 * 0.8 * 2.2 * 1.1) ** (1 / 5)
    assert report.summary(rows) == (
        f"Over the 5 rows with a peer the fastest peer takes {mean:.2f} times as long in the geometric mean; the "
        "lowest ratio is 0.80 (adam 50M, torch). 1 of them are below 1.")
    assert report.summary(rows[:2]).endswith("None is below 1.")
    assert report.summary(rows[5:]) == "No peer was installed."


def test_several_files_are_combined_by_medians(tmp_path):
    paths = []
    for i, scale in enumerate((1.0, 3.0, 50.0)):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(results(scale)), "utf-8")
    rows = report.table_rows(report.load(paths)[0])
    assert rows[0].ours.ns == pytest.approx(1.5)
    assert rows[0].ratio == pytest.approx(2.0)


def test_not_timed_benchmarks_are_left_out(file, capsys):
    found = results()
    for entry in found["benchmarks"]:
        entry["stats"] = None
    file.write_text(json.dumps(found), "utf-8")
    with pytest.raises(SystemExit):
        report.main([str(file)])
    assert "no benchmark of fastopt in" in capsys.readouterr().err


def test_put_replaces_what_stands_between_the_marks_and_nothing_else(project):
    readme = project / "README.md"
    for text in ("new\n", "newer"):
        report.put(readme, "speed", text)
    assert readme.read_text("utf-8") == "# top\n<!-- begin: speed -->\nnewer\n<!-- end: speed -->\nbottom\n"


@pytest.mark.parametrize("text", ["", "<!-- begin: speed -->", "<!-- end: speed --><!-- begin: speed -->",
                                  "<!-- begin: speed --><!-- begin: speed --><!-- end: speed -->"])
def test_put_refuses_a_file_without_the_marks(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"expected the marks <!-- begin: speed --> and <!-- end: speed --> once"):
        report.put(path, "speed", "new")
    assert path.read_text("utf-8") == text


def test_readme_and_page_are_written(file, project, monkeypatch):
    """The README has its rows in their order; the page has all."""
    monkeypatch.setattr(report, "README_ROWS", (("log_softmax", "(8, 4)"), ("not", "measured"), ("adam", "1M")))
    assert report.main([str(file), "--root", str(project)]) == 0
    readme, page = ((project / name).read_text("utf-8") for name in ("README.md", "docs/speed.md"))
    assert re.findall(r"^\| (\w+)[^|]* \| ([^|]+) \| \d", readme, re.M) == [
        ("log_softmax", "(8, 4)"), ("adam", "1M")]
    assert len(re.findall(r"^\| \w[^|]* \| [^|]+ \| \d", page, re.M)) == 6
    for text in (readme, page):
        assert "the lowest ratio is 0.80 (adam 50M, torch)" in text
        assert "Measured on: A Processor, 2 CPUs; 2 threads." in text


def test_the_readme_has_ten_to_twelve_rows_that_are_measured():
    measured = {(workload.title, workload.shape) for family in FAMILIES for workload in family.WORKLOADS}
    assert set(report.README_ROWS) <= measured
    assert 10 <= len(report.README_ROWS) <= 12


def test_pictures_have_bars_of_what_is_measured():
    pictures = pytest.importorskip("pictures", exc_type=ModuleNotFoundError)
    measured = {(workload.title, workload.shape) for family in FAMILIES for workload in family.WORKLOADS}
    assert {(kernel, shape) for kernel, shapes in pictures.BARS.items() for shape in shapes} <= measured


def test_print_writes_nothing(file, project, capsys):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert report.main([str(file), "--root", str(project), "--print"]) == 0
    assert "| lion | 1k |" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_section(project, tmp_path, capsys):
    text = tmp_path / "epoch.md"
    text.write_text("| a table |\n", "utf-8")
    assert report.main(["--root", str(project), "--section", f"epoch={text}"]) == 0
    assert "<!-- begin: epoch -->\n| a table |\n<!-- end: epoch -->" in (project / "docs/speed.md").read_text("utf-8")
    for wrong in (f"nowhere={text}", "epoch"):
        with pytest.raises(SystemExit):
            report.main(["--root", str(project), "--section", wrong])
        assert "expected NAME=FILE with a NAME marked in docs/*.md" in capsys.readouterr().err


def test_pictures(file, project, monkeypatch):
    """Small, valid, the same bytes each time, with nothing of the day in them."""
    pytest.importorskip("matplotlib")
    assert report.main([str(file), "--root", str(project)]) == 0
    docs = project / "docs"
    first = {path.name: path.read_bytes() for path in docs.glob("*.svg")}
    assert sorted(first) == ["speed_adam.svg", "speed_ratios.svg", "speed_roof.svg"]
    for name, picture in first.items():
        assert len(picture) < 100_000, name
        assert b"dc:date" not in picture, name
        assert ET.fromstring(picture).tag.endswith("svg"), name
    assert b"memory roof" in first["speed_adam.svg"]
    assert b"0.80 torch" in first["speed_ratios.svg"]
    assert b"90%" in first["speed_roof.svg"]
    for seed in ("1", "2"):         # of str's hashes, which decide the order of sets
        for path in docs.glob("*.svg"):
            path.unlink()
        subprocess.run([sys.executable, report.__file__, str(file), "--root", str(project)], check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed,
                                         "PYTHONPATH": os.path.dirname(fastopt.__path__[0])})
        assert {path.name: path.read_bytes() for path in docs.glob("*.svg")} == first


@pytest.mark.parametrize("name", ["README.md", "docs/speed.md"])
@pytest.mark.parametrize("mark", ["speed", "sweep"])
def test_marks_are_there(name, mark):
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the tests")
    text = path.read_text("utf-8")
    assert text.count(f"<!-- begin: {mark} -->") == text.count(f"<!-- end: {mark} -->") == 1
