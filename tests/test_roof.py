"""The memory roof's loops: what they load and store is what they say."""

import numpy as np
import pytest
from helpers import AWKWARD, THREADS, assert_same_bits, unaligned

import fastopt
from fastopt.bench.roof import bytes_per_element, roof

FORMS = ["ur", "uru", "uruu", "uruuu", "uruuuu", "urur", "rur", "u", "rw", "rrw", "urw"]
SUMS = ["r", "rr", "r-", "-r-"]


def draw(rng, count, n):
    return [rng.standard_normal(n, dtype=np.float32) for _ in range(count)]


def expected(arrays, letters):
    """The arrays after the pass: the mean in the kernel's order, updated arrays before those that are only read."""
    loaded = [array for wanted in "ur" for array, letter in zip(arrays, letters, strict=True) if letter == wanted]
    mean = loaded[0].copy()
    for array in loaded[1:]:
        mean += array
    mean *= np.float32(1 / len(loaded))
    return [mean if letter in "uw" else array for array, letter in zip(arrays, letters, strict=True)]


@pytest.mark.usefixtures("level", "always_parallel")
@pytest.mark.parametrize("letters", FORMS)
@pytest.mark.parametrize("threads", THREADS)
def test_stores_the_mean(letters, threads, rng):
    for n in (0, *AWKWARD, 8191, 8193, 50_000):
        arrays = draw(rng, len(letters), n)
        after = expected(arrays, letters)
        with fastopt.num_threads(threads):
            roof(arrays, [letters])()
        for k, (array, right) in enumerate(zip(arrays, after, strict=True)):
            assert_same_bits(array, right, f"{letters}[{k}], {n}")


@pytest.mark.usefixtures("level", "always_parallel")
@pytest.mark.parametrize("letters", SUMS)
def test_sums_what_it_only_reads(letters, rng):
    for n in (0, *AWKWARD, 8191, 8193, 50_000):
        arrays = draw(rng, len(letters), n)
        before = [array.copy() for array in arrays]
        read = [array for array, letter in zip(arrays, letters, strict=True) if letter == "r"]
        sums = set()
        for threads in THREADS:
            with fastopt.num_threads(threads):
                sums.update(roof(arrays, [letters])())
        assert len(sums) == 1
        assert sums.pop() == pytest.approx(sum(array.sum(dtype=np.float64) for array in read), abs=1e-6 * n + 1e-6)
        for array, right in zip(arrays, before, strict=True):
            assert_same_bits(array, right)


@pytest.mark.usefixtures("level", "always_parallel")
@pytest.mark.parametrize("passes", [["rr-", "rrw"], ["rr- rrw"], ["rr-", "rrw", "-ru", "ru-"], ["rr- rrw -ru ru-"]])
def test_passes_follow_one_another(passes, rng):
    """Whether each is done on all chunks before the next one, or all of them on each chunk."""
    x, dy, dx = (unaligned(array, 4) for array in draw(rng, 3, 50_000))
    total, after = x.sum(dtype=np.float64) + dy.sum(dtype=np.float64), [x, dy, dx]
    for letters in " ".join(passes).split()[1:]:
        after = expected(after, letters)
    after = [array.copy() for array in after]
    sums = roof([x, dy, dx], passes)()
    assert len(sums) == len(passes)
    assert sums == [pytest.approx(total, abs=0.05), *[0.0] * (len(passes) - 1)]
    for array, right in zip((x, dy, dx), after, strict=True):
        assert_same_bits(array, right)


def test_bytes():
    assert bytes_per_element(["uruu"]) == 28
    assert bytes_per_element(["rr-", "rrw"]) == 20
    assert bytes_per_element(["rr- rrw"]) == 12


@pytest.mark.parametrize(("arrays", "passes", "message"), [
    ((3, 4), ["ur"], "one size"),
    ((3, 3), ["urr"], "one of u, r, w, -"),
    ((3, 3), ["ux"], "one of u, r, w, -"),
    ((3, 3), ["ur ur ur ur ur"], "at most 4"),
    ((3, 3), ["--"], "arrays updated, read and written"),
    ((3, 3), ["-w"], "arrays updated, read and written"),
])
def test_refusals(arrays, passes, message):
    given = [np.ones(n, np.float32) for n in arrays]
    with pytest.raises(ValueError, match=message):
        roof(given, passes)()
    assert all((array == 1).all() for array in given)


def test_refuses_overlap():
    x = np.ones(8, np.float32)
    with pytest.raises(ValueError, match="overlaps"):
        roof([x[:5], x[3:]], ["ru"])
