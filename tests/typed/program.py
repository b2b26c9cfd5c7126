"""The rest of the API as a user's program calls it: mypy checks every type here against the installed package."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt import convert, init, schedules

Array = NDArray[np.float32]

rng = np.random.default_rng(0)
assert_type(init.he_normal((5, 3), rng, layout="in_out", fan="out"), Array)
assert_type(init.he_uniform([np.int64(5), 3], rng), Array)
assert_type(init.xavier_normal((5, 3), rng), Array)
assert_type(init.xavier_uniform((5, 3), rng), Array)
assert_type(init.normal(3, rng, std=0.01), Array)
assert_type(init.uniform(3, rng, low=-1, high=1), Array)

rate = schedules.join([schedules.linear_warmup(0.1, 5), lambda step: 0.1 / step], [5])
assert_type(rate(1), float)
assert_type(rate(np.int64(1)), float)
assert_type(schedules.cosine(0.1, 100, alpha=0.1)(1), float)
assert_type(schedules.piecewise_constant([100], [0.1, 0.01])(1), float)
assert_type(schedules.exponential_decay(0.1, 100, 0.5, staircase=True)(1), float)
assert_type(schedules.inverse_time_decay(0.1, 100, 0.5)(1), float)


def move(opt: fastopt.Adam, keys: list[str]) -> None:
    state = convert.to_torch(opt, keys)
    assert_type(state, dict[str, Any])
    assert_type(convert.from_torch(opt, state, keys), None)
    fastopt.save_state("state.npz", state)
    store = convert.to_keras(opt, keys)
    assert_type(store, dict[str, NDArray[Any]])
    assert_type(convert.from_keras(opt, store, keys), None)
    assert_type(convert.from_optax(opt, convert.to_optax(opt, (), keys), step_count=3), None)


layer = fastopt.BatchNorm(3)
arrays = convert.layer_to_torch(layer)
assert_type(arrays, dict[str, NDArray[Any]])
convert.layer_from_torch(layer, arrays)
weights = convert.layer_to_keras(layer)
assert_type(weights, list[Array])
convert.layer_from_keras(layer, weights)
assert_type(fastopt.load_state("state.npz"), dict[str, Any])

assert_type(fastopt.cast({"w": np.ones((2, 3)), "layers": [(np.zeros(3), 0.5)]}), Any)
assert_type(fastopt.cast(np.ones(3), np.float64), Any)

assert_type(fastopt.show_config(), None)
assert_type(fastopt.show_config(mode="dicts"), dict[str, Any])
assert_type(fastopt.__version__, str)

# Errors: mypy would report an unused "type: ignore" here.
init.he_normal((5.0, 3), rng)  # type: ignore[arg-type]
init.he_normal((5, 3), 0)  # type: ignore[arg-type]
init.he_normal((5, 3), rng, layout="oihw")  # type: ignore[arg-type]
rate("1")  # type: ignore[arg-type]
schedules.constant(0.1).value = 0.2  # type: ignore[misc]
schedules.join([0.1], [])  # type: ignore[list-item]
convert.to_torch(schedules.constant(0.1))  # type: ignore[arg-type]
convert.layer_to_torch(fastopt.Dropout(0.5, rng))  # type: ignore[arg-type]
fastopt.save_state("state.npz", [0.1])  # type: ignore[arg-type]
fastopt.show_config(mode="json")  # type: ignore[call-overload]
fastopt.show_config()["isa"]  # type: ignore[index]
fastopt.Adamw()  # type: ignore[attr-defined]
