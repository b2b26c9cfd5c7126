"""What the optimizer classes refuse, by a message, with nothing changed."""

import copy

import numpy as np
import pytest
from helpers import assert_same_bits
from optimizer_cases import ROWS, taken_by

import fastopt

F = np.float32
SHARED = np.ones(9, np.float32)


def test_later_steps_in_another_order_and_with_wrong_keys():
    """What is bound is recognised by its keys, whatever their order; what is missing is still an error."""
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    grads = {"a": np.ones(2, np.float32), "b": np.full(2, 2.0, np.float32)}
    opt = fastopt.SGD(lr=1.0)
    opt.update(params, grads)
    opt.update(dict(reversed(params.items())), dict(reversed(grads.items())))
    for wrong in ({"a": grads["a"]}, {"a": grads["a"], "c": grads["b"]}, {**grads, "c": grads["b"]}, [*grads.values()],
                  {"a": grads["a"], "b": "no"}):
        with pytest.raises((TypeError, ValueError), match=r"^grads"):
            opt.update(params, wrong)
    other = np.zeros(2, np.float32)
    opt.update({"a": params["a"], "b": other}, grads)
    opt.update([params["a"], params["b"]], [grads["a"], grads["b"]])
    opt.update((params["a"], params["b"]), (grads["a"], grads["b"]))
    assert (params["a"] == -5.0).all()
    assert (params["b"] == -8.0).all()
    assert (other == -2.0).all()
    assert opt.step_count == 5


def test_a_schedule_that_returns_nonsense_changes_nothing():
    param, opt = np.zeros(1, np.float32), fastopt.SGD(lr=lambda step: 0.1 if step < 2 else float("nan"))
    opt.update(param, np.ones(1, np.float32))
    before = param.copy()
    with pytest.raises(ValueError, match="^lr: expected"):
        opt.update(param, np.ones(1, np.float32))
    assert_same_bits(param, before)
    assert opt.step_count == 1


@pytest.mark.parametrize(("per_param", "error", "message"), [
    ("no", TypeError, "^per_param: expected a function"),
    (lambda key, array: None, TypeError, r"^per_param\('w', …\): expected a dict"),
    (lambda key, array: {"wait_decay": 0.0}, ValueError, r"among lr, .* got 'wait_decay'"),
    (lambda key, array: {"lr": -1.0}, ValueError, r"^lr: expected a number"),
])
def test_wrong_per_param(per_param, error, message):
    with pytest.raises(error, match=message):
        fastopt.Adam(per_param=per_param).update({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})


@pytest.mark.parametrize(("options", "message"), [
    ({"lr": -1.0}, "^lr: expected"), ({"betas": (0.9, 1.0)}, r"^betas\[1\]: expected"),
    ({"eps": "small"}, "^eps: expected"),
    ({"weight_decay": -0.1}, "^weight_decay: expected"), ({"average_decay": 2.0}, "^average_decay: expected"),
    ({"clip_value": 0}, "^clip_value: expected"),
    ({"amsgrad": "no"}, "^amsgrad: expected True or False, got str 'no'"),
    ({"maximize": 1}, "^maximize: expected True or False"),
    ({"skip_nonfinite": None}, "^skip_nonfinite: expected True or False"),
    ({"bias_correction": 1}, "^bias_correction: expected True or False, got int 1"),
    ({"average_warmup": 1, "average_decay": 0.9}, "^average_warmup: expected True or False, got int 1"),
    ({"average_warmup": True}, "^average_warmup: expected average_decay with it, got None"),
    ({"clip_norm_per_param": 1.5, "clip_norm": 1.0},
     "^clip_norm_per_param: expected None together with clip_norm, got 1.5"),
])
def test_wrong_hyper_parameters_are_refused_at_once(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastopt.Adam(**options)


@pytest.mark.parametrize(("params", "grads", "message"), [
    ({"a": np.ones(2)}, {"a": np.ones(2, F)},
     r"^params\['a'\]: expected writable C-contiguous float32 array, got float64"),
    ({"a": np.ones(2, F)}, {"b": np.ones(2, F)},
     "^grads: expected the keys of params, got none for 'a' and 'b', which params does not have"),
    ({"a": np.ones(2, F)}, [np.ones(2, F)], "^grads: expected a dict like params, got list"),
    ([np.ones(2, F)], {"a": np.ones(2, F)}, "^grads: expected a sequence like params, got dict"),
    ([np.ones(2, F)], [], "^grads: expected 1 arrays, one for each of params, got 0"),
    ({"a": np.ones(2, F)}, {"a": np.ones(3, F)},
     r"^grads\['a'\]: expected C-contiguous float32 of shape \(2,\), got float32 \(3,\)"),
    ({"a": np.ones(2, F)}, {"a": np.ones((2, 1))}, r"^grads\['a'\]: expected .* got float64 \(2, 1\)"),
    ({"a": np.ones(2, F)}, {"a": [1.0, 1.0]}, r"^grads\['a'\]: expected .* got list"),
    ({"a": np.ones(2, F)}, {"a": np.ones(2, int)}, r"^grads\['a'\]: expected .* got int64"),
    ({"a": np.ones(2, F)}, {"a": np.ma.ones(2, F)}, r"^grads\['a'\]: expected .* got masked array"),
    ({"a": np.ones(2, F)}, {"a": np.ones(2, complex)}, r"^grads\['a'\]: expected .* got complex128"),
    ({"a": SHARED[:4], "b": SHARED[3:6]}, {"a": np.ones(4, F), "b": np.ones(3, F)},
     r"^params\['b'\]: expected memory of its own"),
    ({"a": SHARED[:4], "b": SHARED[4:8]}, {"a": SHARED[5:9], "b": np.ones(4, F)},
     r"^grads\['a'\]: expected memory of its own"),
])
def test_bad_models_change_nothing(params, grads, message):
    opt = fastopt.Adam()
    values = params.values() if isinstance(params, dict) else params
    before = [param.copy() for param in values]
    with pytest.raises((TypeError, ValueError), match=message):
        opt.update(params, grads)
    for param, old in zip(values, before, strict=True):
        assert_same_bits(param, old)
    assert opt.step_count == 0
    assert opt.state == {}


@pytest.mark.parametrize("defect", [np.ones(7, np.float32), "no", np.ones(5, np.int32)], ids=["shape", "str", "int32"])
@pytest.mark.parametrize("k", [0, 50, 99])
def test_a_defect_in_one_of_a_hundred_changes_nothing(k, defect, rng):
    params = [rng.standard_normal(5).astype(np.float32) for _ in range(100)]
    opt = fastopt.Adam()
    opt.update(params, [np.ones(5, np.float32)] * 100)
    before = [param.copy() for param in params]
    state = {key: {name: array.copy() for name, array in entry.items()} for key, entry in opt.state.items()}
    grads = [np.ones(5, np.float32) for _ in range(100)]
    grads[k] = defect
    with pytest.raises((TypeError, ValueError), match=rf"^grads\[{k}\]: expected"):
        opt.update(params, grads)
    for param, old in zip(params, before, strict=True):
        assert_same_bits(param, old)
    for key, entry in state.items():
        for name, old in entry.items():
            assert_same_bits(opt.state[key][name], old)
    assert opt.step_count == 1
    opt.update(params, [np.ones(5, np.float32)] * 100)  # and goes on


@pytest.mark.parametrize(("name", "option"), [("SGD", "momentum"), ("RMSprop", "momentum")])
def test_a_hyper_parameter_changed_in_place_reaches_no_array_that_was_not_made(name, option):
    """A 0-d array is a number too, and can be written: the kernel would read a buffer that was never made."""
    value, param = np.array(0.0), np.ones(5, np.float32)
    opt = getattr(fastopt, name)(**{option: value})
    opt.update(param, np.ones(5, np.float32))
    before = param.copy()
    value[...] = 0.9
    with pytest.raises(TypeError, match=r"^state buf\[0\]: expected an array, got None"):
        opt.update(param, np.ones(5, np.float32))
    assert_same_bits(param, before)
    assert opt.step_count == 1


@pytest.mark.parametrize(("params", "grads", "message"), [
    (None, None, "^params: expected a dict, a sequence or an array, got NoneType"),
    (1.0, 1.0, "^params: expected a dict, a sequence or an array, got float"),
    ([np.ones(2, np.float32)], None, "^grads: expected a sequence like params, got NoneType"),
    ({"w": np.ones(2, np.float32)}, np.array(2.0), "^grads: expected a dict like params, got ndarray"),
])
def test_no_collection_at_all(params, grads, message):
    with pytest.raises(TypeError, match=message):
        fastopt.SGD().update(params, grads)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clip_norm_per_param": 1.0}, {"skip_nonfinite": True}],
                         ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", None])
def test_wrong_grad_scale(options, bad):
    """It is an error of its own, not a gradient that holds NaN and may be skipped."""
    param = np.ones(2, np.float32)
    with pytest.raises((TypeError, ValueError), match="^grad_scale: expected a number"):
        fastopt.SGD(**options).update(param, np.ones(2, np.float32), grad_scale=bad)
    assert (param == 1.0).all()


def test_a_state_of_another_shape_is_refused():
    opt = fastopt.Adam()
    opt.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"^state m\['w'\]: expected writable C-contiguous float32 of shape \(4,\)"):
        opt.update({"w": np.ones(4, np.float32)}, {"w": np.ones(4, np.float32)})
    assert opt.state["w"]["m"].shape == (3,)


@pytest.mark.parametrize(("name", "reason"), [
    ("AdamW", "its weight_decay is decoupled"), ("Lion", "its weight_decay is decoupled"),
    ("LAMB", "its weight_decay is part of the direction"), ("Rprop", "no learning rate multiplies its step"),
])
def test_decoupled_weight_decay_where_it_has_no_meaning(name, reason):
    with pytest.raises(TypeError) as caught:
        getattr(fastopt, name)(decoupled_weight_decay=0.1)
    assert str(caught.value) == f"{name} takes no decoupled_weight_decay ({reason}), got 0.1"
    with pytest.raises(TypeError, match=f"^{name}: unknown option 'decoupled_weight_decay', expected "):
        getattr(fastopt.reference, name)(decoupled_weight_decay=0.1)


@pytest.mark.parametrize("module", [fastopt, fastopt.reference], ids=["fastopt", "reference"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_unknown_options(row, module):
    """A function and a class refuse what they do not take and list what they take; no array is written."""
    arrays = {name: np.ones(3, np.float32) for name in ("param", "grad", *row.states)}
    needed = {**({"step": 1} if "step" in row.taken else {}), **row.valid}
    for unknown in ("nonsense", "clip_norm", *({"weight_decay", "decoupled_weight_decay"} - row.taken)):
        with pytest.raises(TypeError, match=f"^{row.function}: unknown option '{unknown}', expected ") as caught:
            getattr(module, row.function)(**arrays, **needed, weight_decay=0.1, **{unknown: 0.1})
        assert set(str(caught.value).partition("expected ")[2].split(", ")) == row.taken
    for unknown in ("nonsense", "grad_scale"):
        with pytest.raises(TypeError, match=f"^{row.name}: unknown option '{unknown}', expected ") as caught:
            getattr(module, row.name)(**row.settings[0], **{unknown: 0.1})
        assert set(str(caught.value).partition("expected ")[2].split(", ")) == taken_by(getattr(fastopt, row.name))
    assert all((array == 1.0).all() for array in arrays.values())


def test_a_second_call_while_one_is_running_is_refused():
    """Python code can run while gradients are bound: what NumPy calls on an overflow, for one."""
    params = [np.ones(3, np.float32) for _ in range(2)]
    grads = [np.ones(3, np.float32), np.full(3, 1e300)]
    opt, errors = fastopt.SGD(lr=1.0), []

    def again(kind, flag):
        with pytest.raises(RuntimeError, match="one call at a time") as caught:
            opt.update(params, grads)
        errors.append(caught.value)

    opt.update(params, [np.ones(3, np.float32)] * 2)
    with np.errstate(over="call", call=again):
        opt.update(params, grads)
    assert errors
    assert opt.step_count == 2
    assert (params[0] == -1.0).all()


def test_gradients_beside_and_across_parameters():
    """All of one block of memory: a gradient may touch its neighbours' ends, and not one element of them."""
    room = np.zeros(30, np.float32)
    params = [room[0:5], room[10:15], room[20:25]]
    opt = fastopt.SGD(lr=1.0)
    opt.update(params, [room[5:10], room[15:20], room[25:30]])
    for start in (*range(1, 5), *range(6, 15), *range(16, 25)):
        with pytest.raises(ValueError, match=r"^grads\[1\]: expected memory of its own, got an array that overlaps"):
            opt.update(params, [room[5:10], room[start : start + 5], room[25:30]])
    assert opt.step_count == 1


def test_parameters_beside_each_other():
    """A model may be one block of memory that is cut into parameters without gaps."""
    room = np.zeros(30, np.float32)
    fastopt.SGD(lr=1.0).update([room[:10], room[10:11], room[11:]], [np.ones(n, np.float32) for n in (10, 1, 19)])
    assert (room == -1.0).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), "1", None])
def test_wrong_clip_norm(bad):
    for name in ("clip_norm", "clip_norm_per_param"):
        if bad is None:
            fastopt.SGD(**{name: None})
            continue
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected a number"):
            fastopt.SGD(**{name: bad})


@pytest.mark.parametrize(("state_dict", "message"), [
    (None, "^state_dict: expected a dict of step_count, steps and state, got NoneType"),
    ({"state": {}}, "^state_dict: expected"),
    ({"step_count": 1, "steps": {}, "state": {"w": {}}}, "^steps: expected the keys of state"),
    ({"step_count": 1, "steps": {"w": 2}, "state": {"w": {}}}, r"^steps\['w'\]: expected at most step_count 1, got 2"),
    ({"step_count": 1, "steps": None, "state": {}}, "^steps: expected a dict, got NoneType"),
    ({"step_count": -1, "steps": {}, "state": {}}, "^step_count: expected an int"),
    ({"step_count": 1, "steps": {}, "state": None}, "^state: expected a dict, got NoneType"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {1: np.ones(2, np.float32), "v": np.ones(2, np.float32)}}},
     r"^state\['w'\]: expected arrays named \['m', 'v'\], got \['1', 'v'\]"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32)}}},
     r"^state\['w'\]: expected arrays named \['m', 'v'\]"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32), "v": np.ones(2)}}},
     r"^state\['w'\]\['v'\]: expected a float32 array, got float64"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": np.ones(2, np.float32), "v": np.ones(3, np.float32)}}},
     "of one shape"),
    ({"step_count": 1, "steps": {"w": 1}, "state": {"w": {"m": [1.0], "v": [1.0]}}},
     "expected a float32 array, got list"),
])
def test_wrong_state_dicts_change_nothing(state_dict, message):
    opt = fastopt.Adam()
    opt.update({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})
    with pytest.raises((TypeError, ValueError), match=message):
        opt.load_state_dict(state_dict)
    assert opt.step_count == 1
    assert opt.state["w"]["m"].shape == (2,)


def test_a_loaded_state_of_another_shape_is_refused_at_the_update():
    opt = fastopt.Momentum()
    opt.load_state_dict({"step_count": 3, "steps": {"w": 3}, "state": {"w": {"v": np.ones(3, np.float32)}}})
    param = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"^state v\['w'\]: expected"):
        opt.update({"w": param}, {"w": np.ones(2, np.float32)})
    assert (param == 1.0).all()


def test_bound_parameters_cannot_be_resized():
    params = [np.zeros(8, np.float32)]
    params[0].resize(4)  # the list holds the only reference
    opt = fastopt.Adam()
    opt.update(params, [np.ones(4, np.float32)])
    with pytest.raises(ValueError, match="cannot resize"):
        params[0].resize(1000)


@pytest.mark.parametrize(("options", "message"), [
    ({"average_decay": True}, "^average_decay: expected a number in .*, got bool True"),
    ({"average_decay": 0.9, "l1": "x"}, "^l1: expected a number in .*, got str 'x'"),
])
def test_a_wrong_option_is_named_beside_averages(options, message):
    with pytest.raises(TypeError, match=message):
        fastopt.Adam(**options)


def test_an_option_cannot_be_changed_behind_the_optimizer():
    """An array of no dimensions is a number when it is given, and none of its later values counts."""
    clip, decay, param = np.array(1.0), np.array(0.1), np.ones(3, np.float32)
    opt = fastopt.SGD(lr=0.1, clip_value=clip, weight_decay=decay)
    opt.update(param, np.ones(3, np.float32))
    clip[...], decay[...] = -1.0, np.nan
    opt.update(param, np.ones(3, np.float32))
    assert np.isfinite(param).all()


def masked(*values):
    return np.ma.masked_array(np.array(values, F), mask=[True] + [False] * (len(values) - 1))


def test_a_masked_array_in_a_state_dict():
    """Its mask would be lost."""
    opt = fastopt.Momentum()
    opt.update({"w": np.ones(2, F)}, {"w": np.ones(2, F)})
    saved = opt.state_dict()
    saved["state"]["w"]["v"] = masked(1.0, 2.0)
    with pytest.raises(TypeError, match=r"^state\['w'\]\['v'\]: expected a float32 array, got a masked array"):
        opt.load_state_dict(saved)
    assert opt.step_count == 1


KEYS = [f"layer{i}" for i in range(20_000)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda opt: opt.update(dict.fromkeys(KEYS, SHARED), {}),
     "grads: expected the keys of params, got none for 'layer0', 'layer1', 'layer2' and 19997 more"),
    (lambda opt: opt.update({}, dict.fromkeys(KEYS, SHARED)),
     "grads: expected the keys of params, got 'layer0', 'layer1', 'layer2' and 19997 more, which params does not have"),
    (lambda opt: opt.load_state_dict({"step_count": 1, "steps": dict.fromkeys(KEYS, 1), "state": {"w": {}}}),
     "steps: expected the keys of state, got none for 'w' and 'layer0', 'layer1', 'layer2' and 19997 more, which state "
     "does not have"),
    (lambda opt: opt.load_state_dict(dict.fromkeys(KEYS)),
     "state_dict: expected a dict of step_count, steps and state, got "
     "['layer0', 'layer1', 'layer10', 'layer100', 'layer1000' and 19995 more]"),
    (lambda opt: opt.load_state_dict({"step_count": 1, "steps": {"w": 1}, "state": {"w": dict.fromkeys(KEYS)}}),
     "state['w']: expected arrays named ['m', 'v'], got "
     "['layer0', 'layer1', 'layer10', 'layer100', 'layer1000' and 19995 more]"),
    (lambda opt: fastopt.Adam(per_param=lambda key, param: dict.fromkeys(KEYS)).update(np.ones(2, F), np.ones(2, F)),
     "got 'layer0', 'layer1', 'layer2' and 19997 more"),
], ids=["missing", "extra", "steps", "state dict", "state names", "per_param"])
def test_messages_about_many_keys_are_short(call, message):
    """The first ones and a count."""
    with pytest.raises(ValueError) as caught:       # noqa: PT011  the text is compared below
        call(fastopt.Adam())
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("change", [
    lambda state: state["w"].__setitem__("m", np.ones(2, F)), lambda state: state.__setitem__("w", {}),
    lambda state: state["w"].__delitem__("m"), lambda state: state.__delitem__("w"), lambda state: state.clear(),
    lambda state: state["w"].clear(), lambda state: state.pop("w"), lambda state: state.popitem(),
    lambda state: state["w"].update(m=np.ones(2, F)), lambda state: state.setdefault("b", {}),
    lambda state: state["w"].__ior__({"m": np.ones(2, F)}),
], ids=["name", "key", "del name", "del key", "clear", "clear entry", "pop", "popitem", "update", "setdefault", "|="])
def test_the_state_cannot_be_assigned_into(change):
    """Steps use the arrays that are bound, and state_dict saves those."""
    params, grads = {"w": np.ones(2, F)}, {"w": np.ones(2, F)}
    opt, twin = fastopt.Adam(), fastopt.Adam()
    for one in (opt, twin):
        one.update({"w": np.ones(2, F)} if one is twin else params, grads)
    with pytest.raises(TypeError, match="^state: expected its entries to be read only, .* write into an array"):
        change(opt.state)
    with pytest.raises(AttributeError):
        opt.state = {}
    opt.load_state_dict(opt.state_dict())
    opt.update(params, grads)
    twin.update({"w": params["w"].copy()}, grads)
    assert_same_bits(opt.state["w"]["m"], twin.state["w"]["m"])
    copied = copy.deepcopy(opt.state)
    copied["w"]["m"] = copied["w"]["v"]         # a copy is a dict as any other
    assert {**opt.state}.keys() == {"w"}


def test_an_option_under_an_equal_name():
    """Keywords from code are interned strings, those of a dict need not be."""
    param, name = np.ones(3, np.float32), "".join(["weight_", "decay"])
    fastopt.sgd(param, np.zeros(3, np.float32), lr=0.5, **{name: 1.0})
    assert (param == 0.5).all()
    with pytest.raises(ValueError, match="^weight_decay: expected"):
        fastopt.sgd(param, param.copy(), lr=0.5, **{name: -1.0})


@pytest.mark.parametrize("cls", [getattr(fastopt, row.name) for row in ROWS if not row.layerwise])
@pytest.mark.parametrize("owner", ["all", "one"])
@pytest.mark.parametrize("bad", [-1.0, np.nan, 1e39, "0.1", None])
def test_a_schedule_is_checked_at_every_step(cls, owner, bad):
    """With hyper-parameters that are checked once."""
    def lr(step):
        return bad if step == 3 else 0.1

    param = np.ones(4, np.float32)
    opt = cls(lr=lr) if owner == "all" else cls(per_param=lambda key, array: {"lr": lr})
    for _ in range(2):
        opt.update([param], [np.ones(4, np.float32)])
    kept = param.copy()
    with pytest.raises((TypeError, ValueError), match=r"^lr: expected a number in \[0, inf\), got "):
        opt.update([param], [np.ones(4, np.float32)])
    assert opt.step_count == 2
    np.testing.assert_array_equal(param, kept)


@pytest.mark.parametrize("betas", [(0.9, 0.99), [0.9, 0.99]])
def test_a_hyper_parameter_that_can_change_in_place_is_checked_at_every_step(betas):
    eps, param = np.array(1e-3), np.ones(4, np.float32)
    opt = fastopt.Adam(betas=betas, eps=eps)
    for _ in range(2):
        opt.update([param], [np.ones(4, np.float32)])
    eps[...] = -1.0
    with pytest.raises(ValueError, match="^eps: expected"):
        opt.update([param], [np.ones(4, np.float32)])
    eps[...] = 1e-3
    if isinstance(betas, list):
        betas[1] = 1.0
        with pytest.raises(ValueError, match=r"^betas\[1\]: expected"):
            opt.update([param], [np.ones(4, np.float32)])
    assert opt.step_count == 2
