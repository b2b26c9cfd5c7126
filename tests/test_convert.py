"""State to and from torch.optim's layout: against records of torch 2.13, and against torch where it is installed."""

import threading

import numpy as np
import pytest
from conversions import assert_near, draw
from helpers import assert_same_bits

import fastopt
from fastopt.convert import from_torch, to_torch

CLASSES = {
    "SGD": {"lr": 0.1},
    "SGD with momentum": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
    "SGD with Nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2},
    "RMSprop": {"lr": 0.01},
    "RMSprop with momentum": {"lr": 0.01, "momentum": 0.9},
    "RMSprop centred with momentum": {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    "Adadelta": {"rho": 0.8},
    "Adam": {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.01},
    "Adam with AMSGrad": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "Adamax": {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.01},
    "NAdam": {"lr": 0.01, "betas": (0.8, 0.99), "momentum_decay": 0.01, "weight_decay": 0.01},
    "RAdam": {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.01},
    "ASGD": {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 5, "weight_decay": 0.01},
    "Rprop": {"lr": 0.01, "etas": (0.4, 1.3), "step_sizes": (1e-5, 1.0)},
    "Momentum": {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    "SGDM": {"lr": 0.1, "beta": 0.8, "weight_decay": 0.01},
}
THEIRS = {
    "Momentum": {"lr": 0.1, "momentum": 0.8, "dampening": 0.0, "nesterov": True, "weight_decay": 0.01},
    "SGDM": {"lr": 0.1, "momentum": 0.8, "dampening": 0.8, "weight_decay": 0.01},
}
"""The arguments of torch's SGD that take the same steps."""
STATE = {
    "SGD": [], "SGD with momentum": ["momentum_buffer"], "SGD with Nesterov": ["momentum_buffer"],
    "Adagrad": ["step", "sum"], "RMSprop": ["step", "square_avg"],
    "RMSprop with momentum": ["step", "square_avg", "momentum_buffer"],
    "RMSprop centred with momentum": ["step", "square_avg", "grad_avg", "momentum_buffer"],
    "Adadelta": ["step", "square_avg", "acc_delta"], "Adam": ["step", "exp_avg", "exp_avg_sq"],
    "Adam with AMSGrad": ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    "AdamW": ["step", "exp_avg", "exp_avg_sq"], "Adamax": ["step", "exp_avg", "exp_inf"],
    "NAdam": ["step", "mu_product", "exp_avg", "exp_avg_sq"], "RAdam": ["step", "exp_avg", "exp_avg_sq"],
    "ASGD": ["step", "eta", "mu", "ax"], "Rprop": ["step", "prev", "step_size"],
    "Momentum": ["momentum_buffer"], "SGDM": ["momentum_buffer"],
}
"""Names of one parameter's state arrays in torch 2.13's state_dict() after a step."""
CAPTURABLE = {"maximize": False, "foreach": None, "differentiable": False, "capturable": False}
GROUP = {
    "SGD": {"lr": 0.001, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False,
            "foreach": None, "differentiable": False, "fused": None},
    "Adagrad": {"lr": 0.01, "lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0, "initial_accumulator_value": 0.0,
                "foreach": None, "maximize": False, "differentiable": False, "fused": None},
    "RMSprop": {"lr": 0.01, "momentum": 0.0, "alpha": 0.99, "eps": 1e-8, "centered": False, "weight_decay": 0.0,
                "capturable": False, "foreach": None, "maximize": False, "differentiable": False},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False, "capturable": False,
                 "foreach": None, "differentiable": False},
    "Adam": {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
             "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
             "decoupled_weight_decay": False},
    "AdamW": {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False,
              "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
              "decoupled_weight_decay": True},
    "Adamax": {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **CAPTURABLE},
    "NAdam": {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 0.004,
              "decoupled_weight_decay": False, **CAPTURABLE},
    "RAdam": {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled_weight_decay": False,
              **CAPTURABLE},
    "ASGD": {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0, **CAPTURABLE},
    "Rprop": {"lr": 0.01, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), **CAPTURABLE},
}
"""The entry of param_groups in torch 2.13's state_dict() with every hyper-parameter at its default."""
FORMS = [name for name in CLASSES if name.split()[0] in ("SGD", *THEIRS)]
"""What torch stores no step count for."""


def torch_name(name):
    return "SGD" if name in THEIRS else name.split()[0]


def make(name, **options):
    return getattr(fastopt, name.split()[0])(**{**CLASSES[name], **options})


def trained(name, steps=3, **options):
    rng = np.random.default_rng(5)
    opt, params = make(name, **options), draw(rng)
    for _ in range(steps):
        opt.update(params, draw(rng))
    return opt, params, rng


@pytest.mark.parametrize("name", CLASSES)
def test_layout_as_recorded_from_torch(name):
    opt, params, _ = trained(name)
    given = to_torch(opt)
    assert list(given) == ["state", "param_groups"]
    assert list(given["state"]) == ([] if name == "SGD" else [0, 1, 2])
    for i, entry in given["state"].items():
        assert set(entry) == set(STATE[name])
        for array_name, array in entry.items():
            assert array.dtype == np.float32
            number = array_name in ("step", "mu_product", "eta", "mu")
            assert array.shape == (() if number else list(params.values())[i].shape)
        assert entry.get("step", 3.0) == 3.0
    (group,) = given["param_groups"]
    assert group == {**GROUP[torch_name(name)], **THEIRS.get(name, CLASSES[name]), "params": [0, 1, 2]}


def test_another_thread_cannot_convert_during_an_update():
    """It would get arrays of which some have taken the step."""
    errors = []

    def convert():
        try:
            to_torch(opt)
        except RuntimeError as error:
            errors.append(str(error))

    def lr(step):
        thread = threading.Thread(target=convert)
        thread.start()
        thread.join()
        return 0.1

    opt, param = fastopt.Adam(), np.ones(3, np.float32)
    opt.lr = lr         # called once, to check it
    opt.update(param, param * 2.0)
    (error,) = errors
    assert error.startswith("state_dict: expected one call at a time, got one while this optimizer's update runs")


@pytest.mark.parametrize("name", GROUP)
def test_defaults_are_torch_s(name):
    opt = getattr(fastopt, name)()
    assert to_torch(opt)["param_groups"] == [{**GROUP[name], "params": []}]


def test_each_parameter_keeps_its_own_step_count():
    opt, params, rng = trained("Adam")
    late = {**params, "late": np.ones(3, np.float32)}
    opt.update(late, {**draw(rng), "late": np.ones(3, np.float32)})
    given = to_torch(opt, keys=[*params, "late"])
    assert [float(entry["step"]) for entry in given["state"].values()] == [4.0] * len(params) + [1.0]
    again = make("Adam")
    from_torch(again, given, keys=[*params, "late"])
    assert again.step_count == 4
    assert again.steps == opt.steps


@pytest.mark.parametrize("name", CLASSES)
def test_a_round_trip_continues_with_the_same_bits(name):
    opt, params, rng = trained(name)
    order = ["scalar", "w", "b"]
    given = to_torch(opt, keys=order)
    again = make(name)
    from_torch(again, given, keys=order, step_count=3 if name in FORMS else None)
    assert again.step_count == 3
    if name == "Momentum":      # its state is divided by lr and multiplied by it
        np.testing.assert_allclose(again.state["w"]["v"], opt.state["w"]["v"], rtol=2e-7)
        return
    copies = {key: param.copy() for key, param in params.items()}
    for _ in range(3):
        grads = draw(rng)
        opt.update(params, grads)
        again.update(copies, grads)
    for key in params:
        assert_same_bits(copies[key], params[key], key)
        for state in opt.state[key]:
            assert_same_bits(again.state[key][state], opt.state[key][state], f"{key} {state}")


def test_arrays_are_copies():
    opt, _, _ = trained("Adam")
    given = to_torch(opt)
    given["state"][0]["exp_avg"][...] = 7.0
    assert (opt.state["w"]["m"] != 7.0).all()
    again = fastopt.Adam()
    from_torch(again, given)
    given["state"][0]["exp_avg"][...] = 8.0
    assert (again.state[0]["m"] == 7.0).all()


def test_a_parameter_before_its_first_step_has_no_entry():
    opt, _, _ = trained("Adam")
    saved = opt.state_dict()
    saved["steps"]["b"] = 0
    opt.load_state_dict(saved)
    given = to_torch(opt)
    assert list(given["state"]) == [0, 2]
    assert given["param_groups"][0]["params"] == [0, 1, 2]


def test_before_the_first_step():
    assert to_torch(fastopt.Adam())["state"] == {}
    opt = fastopt.Adam()
    from_torch(opt, {"state": {}, "param_groups": [{"params": [0, 1]}]})
    assert opt.step_count == 0
    assert opt.state == {}


def test_sgd_with_loaded_buffers_is_past_its_first_step():
    opt, _, _ = trained("SGD with momentum")
    again = make("SGD with momentum")
    from_torch(again, to_torch(opt))
    assert again.step_count == 1


def test_groups_of_per_param():
    opt, _, _ = trained("Adam", per_param=lambda key, p: {} if p.ndim > 1 else {"weight_decay": 0.0, "lr": 0.5})
    first, second = to_torch(opt, keys=["b", "w", "scalar"])["param_groups"]
    assert (first["params"], first["weight_decay"], first["lr"]) == ([0, 2], 0.0, 0.5)
    assert (second["params"], second["weight_decay"], second["lr"]) == ([1], 0.01, 0.01)


def test_lr_is_that_of_the_next_step():
    opt, _, _ = trained("Adam", lr=lambda step: 1.0 / step)
    assert to_torch(opt)["param_groups"][0]["lr"] == 0.25


@pytest.mark.parametrize("kind", [fastopt.Adam, fastopt.NAdam, fastopt.RAdam])
def test_decoupled_weight_decay(kind):
    opt = kind(decoupled_weight_decay=0.25)
    (group,) = to_torch(opt)["param_groups"]
    assert group["weight_decay"] == 0.25
    assert group["decoupled_weight_decay"] is True


@pytest.mark.parametrize(("opt", "error", "message"), [
    (fastopt.Lion(), TypeError, "^optimizer: expected one of SGD, Momentum, .* got Lion"),
    (fastopt.LARS(lr=0.1), TypeError, "got LARS"),
    (None, TypeError, "got NoneType"),
    (fastopt.Adam(l1=0.1), ValueError, r"^l1: expected 0\.0, .* got 0\.1"),
    (fastopt.Adam(eps_hat=True), ValueError, "^eps_hat: expected False, .* got True"),
    (fastopt.AdamW(bias_correction=False), ValueError, "^bias_correction: expected True, .* got False"),
    (fastopt.RMSprop(eps_inside_sqrt=True), ValueError, "^eps_inside_sqrt: expected False"),
    (fastopt.SGD(decoupled_weight_decay=0.1), ValueError, r"^decoupled_weight_decay: expected 0\.0"),
    (fastopt.Adam(decoupled_weight_decay=0.1, weight_decay=0.1), ValueError,
     r"^decoupled_weight_decay: expected 0\.0"),
    (fastopt.Adam(per_param=lambda key, p: {}), ValueError, "^optimizer: with per_param, expected one whose"),
])
def test_refused_without_a_counterpart_in_torch(opt, error, message):
    with pytest.raises(error, match=message):
        to_torch(opt)


def test_wrong_keys():
    opt, _, _ = trained("Adam")
    with pytest.raises(ValueError, match="^keys: expected keys of the optimizer's state, got 'x'"):
        to_torch(opt, keys=["w", "x"])
    with pytest.raises(ValueError, match="^keys: expected distinct keys, got"):
        to_torch(opt, keys=["w", "w"])
    given = to_torch(opt)
    with pytest.raises(ValueError, match="^keys: expected 3 keys, one for each of torch's parameters, got 2"):
        from_torch(fastopt.Adam(), given, keys=["w", "b"])
    with pytest.raises(ValueError, match="^keys: expected to include 'w', which the optimizer has state for"):
        from_torch(opt, given)


def changed(given, **entry):
    return {**given, "state": {**given["state"], 1: {**given["state"][1], **entry}}}


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda d: d["state"], ValueError, "^state_dict: expected a dict with state and param_groups"),
    (lambda d: None, ValueError, "^state_dict: expected a dict with state and param_groups"),
    (lambda d: np.zeros(3), ValueError, "^state_dict: expected a dict with state and param_groups"),
    (lambda d: {**d, "param_groups": [np.zeros(3)]}, ValueError, "^state_dict: expected a dict with state and param_g"),
    (lambda d: changed(d, mu_product=np.ones(7)), ValueError, "^state_dict: .* for Adam, got 'mu_product'"),
    (lambda d: changed(d, max_exp_avg_sq=np.ones(7, np.float32)), ValueError,
     "^state_dict: expected arrays named exp_avg, exp_avg_sq with these hyper-parameters, got .*max_exp_avg_sq"),
    (lambda d: changed(d, exp_avg=None), ValueError, "^state_dict: expected arrays named exp_avg, exp_avg_sq with"),
    (lambda d: changed(d, exp_avg=np.ones(7)), TypeError, r"^state\[1\]\['m'\]: expected a float32 array, got float64"),
    (lambda d: changed(d, exp_avg=np.ma.ones(7, np.float32)), TypeError,
     "^state_dict: expected arrays without a mask, got a MaskedArray for 'exp_avg' of 1$"),
    (lambda d: changed(d, exp_avg=np.ones(6, np.float32)), ValueError, r"^state\[1\]: expected arrays of one shape"),
])
def test_refused_state_dicts_change_nothing(change, error, message):
    opt, _, _ = trained("Adam")
    given = change(to_torch(opt))
    fresh = fastopt.Adam()
    with pytest.raises(error, match=message):
        from_torch(fresh, given)
    assert fresh.state == {}
    assert fresh.step_count == 0


def test_a_momentum_product_of_other_hyper_parameters():
    opt, _, _ = trained("NAdam")
    given = to_torch(opt)
    from_torch(make("NAdam"), given)
    with pytest.raises(ValueError, match="^state_dict: expected .* as the mu_product of 0, which follows from"):
        from_torch(make("NAdam", momentum_decay=0.02), given)
    with pytest.raises(ValueError, match="^weight_decay: expected 0.0, because torch.optim does not have it, got 0.5"):
        to_torch(fastopt.Rprop(weight_decay=0.5))


@pytest.mark.parametrize("own", [{"lr": lambda step: 0.1}, {"lr": 0.0}, {"per_param": lambda key, param: {}}])
def test_a_velocity_that_carries_the_learning_rate_needs_a_constant_one(own):
    opt, _, _ = trained("Momentum", **own)
    message = "^lr: expected one constant > 0 for all parameters, by which torch.optim's buffer and v of Momentum"
    with pytest.raises(ValueError, match=message):
        to_torch(opt)
    given = to_torch(trained("SGD with momentum")[0])
    with pytest.raises(ValueError, match=message):
        from_torch(make("Momentum", **own), given)


def test_a_step_count_where_torch_has_one():
    opt, _, _ = trained("Adam")
    with pytest.raises(ValueError, match="^step_count: expected None for Adam, .* got 3"):
        from_torch(fastopt.Adam(), to_torch(opt), step_count=3)


# Against torch itself.


def torch_twin(torch, name, params, **options):
    """Copies of the parameters as tensors, and torch's optimizer of them."""
    tensors = [torch.nn.Parameter(torch.from_numpy(param.copy())) for param in params.values()]
    hyper = {**THEIRS.get(name, CLASSES[name]), **options}
    return tensors, getattr(torch.optim, torch_name(name))(tensors, foreach=False, **hyper)


def torch_step(torch, tensors, opt, grads):
    for tensor, grad in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.from_numpy(grad.copy())
    opt.step()


@pytest.mark.parametrize("name", CLASSES)
def test_from_fastopt_to_torch_midway(name):
    torch = pytest.importorskip("torch")
    opt, params, rng = trained(name, 20)
    tensors, theirs = torch_twin(torch, name, params)
    given = to_torch(opt)
    given["state"] = {i: {key: torch.from_numpy(array) for key, array in entry.items()}
                      for i, entry in given["state"].items()}
    theirs.load_state_dict(given)
    before = {key: param.copy() for key, param in params.items()}
    for _ in range(10):
        grads = draw(rng)
        opt.update(params, grads)
        torch_step(torch, tensors, theirs, grads)
    assert_near([tensor.detach() for tensor in tensors], params, before, 10, name)


@pytest.mark.parametrize("name", CLASSES)
def test_from_torch_to_fastopt_midway(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    params = draw(rng)
    tensors, theirs = torch_twin(torch, name, params)
    for _ in range(20):
        torch_step(torch, tensors, theirs, draw(rng))
    params = {key: tensor.detach().numpy().copy() for key, tensor in zip(params, tensors, strict=True)}
    opt = make(name)
    from_torch(opt, theirs.state_dict(), keys=params, step_count=20 if name in FORMS else None)
    assert opt.step_count == 20
    before = {key: param.copy() for key, param in params.items()}
    for _ in range(10):
        grads = draw(rng)
        opt.update(params, grads)
        torch_step(torch, tensors, theirs, grads)
    assert_near([tensor.detach() for tensor in tensors], params, before, 10, name)


@pytest.mark.parametrize("name", CLASSES)
def test_the_records_match_the_installed_torch(name):
    torch = pytest.importorskip("torch")
    params = draw(np.random.default_rng(0))
    tensors, theirs = torch_twin(torch, name, params)
    torch_step(torch, tensors, theirs, params)
    given = theirs.state_dict()
    assert [set(entry) for entry in given["state"].values()] == [set(STATE[name])] * len(given["state"])
    hyper = THEIRS.get(name, CLASSES[name])
    ours = {**GROUP[torch_name(name)], **hyper, "foreach": False, "params": [0, 1, 2]}
    assert given["param_groups"] == [ours]


@pytest.mark.parametrize("entry", [5, [3], "step"])
def test_malformed_torch_state_is_a_value_error(entry):
    with pytest.raises(ValueError, match="^state_dict: expected a dict of arrays for each parameter, got .* for 0$"):
        from_torch(fastopt.Adam(), {"param_groups": [{"params": [0]}], "state": {0: entry}})


@pytest.mark.parametrize("step", [
    1.5, float("inf"), float("nan"), "three", "3", 1j, [3], np.array([3.0]), np.array(1.5), np.ma.array(3.0),
    np.ma.masked])
def test_a_step_that_is_not_a_whole_number(step):
    """int(1.5), int("3") and int(np.array([3.0])) are numbers."""
    opt, _, _ = trained("Adam")
    given, fresh = changed(to_torch(opt), step=step), fastopt.Adam()
    with pytest.raises(ValueError, match="^state_dict: expected a whole number as the step of 1, got "):
        from_torch(fresh, given)
    assert fresh.state == {}


@pytest.mark.parametrize("step", [2, 2.0, np.float32(2), np.array(2.0, np.float32), np.int64(2)])
def test_a_step_of_any_type(step):
    opt, _, _ = trained("Adam")
    fresh = fastopt.Adam()
    from_torch(fresh, changed(to_torch(opt), step=step))
    assert list(fresh.steps.values()) == [3, 2, 3]


def test_the_step_of_a_tensor():
    torch = pytest.importorskip("torch")
    opt, _, _ = trained("Adam")
    fresh = fastopt.Adam()
    from_torch(fresh, changed(to_torch(opt), step=torch.tensor(2.0)))
    assert list(fresh.steps.values()) == [3, 2, 3]
    with pytest.raises(ValueError, match="^state_dict: expected a whole number as the step of 1, got"):
        from_torch(fresh, changed(to_torch(opt), step=torch.tensor(1.5)))


@pytest.mark.parametrize(("keys", "got"), [
    (3, "int 3"), (3.5, "float 3.5"), ("fc1", "str 'fc1'"), ([["w"], ["b"]], r"list \[\['w'\], \['b'\]\]")])
def test_keys_that_are_no_iterable_of_keys(keys, got):
    opt, _, _ = trained("Adam")
    message = f"^keys: expected the parameters' keys in torch's order, such as \\['w', 'b'\\], got {got}"
    with pytest.raises(TypeError, match=message):
        to_torch(opt, keys)
    with pytest.raises(TypeError, match=message):
        from_torch(fastopt.Adam(), to_torch(opt), keys)
