"""Names of options: what other libraries call ours, which one a misspelling means, and how a repr shows a value."""

import re
from collections.abc import Sequence
from typing import Any

_OTHERS = {
    "lr": ("learning_rate learning_rate_init learn_rate eta eta0 alpha step_size stepsize lr_schedule lr_scheduler "
           "learning_rate_schedule scheduler"),
    "betas": "beta beta1 beta2 beta3 beta_1 beta_2 beta_3 b1 b2 b3 decay1 decay2",
    "alpha": "rho decay decay_rate decay_factor gamma beta beta2 beta_2 b2",
    "rho": "alpha decay decay_rate decay_factor gamma beta",
    "momentum": "mu mass beta beta1 beta_1 b1 gamma momentum_beta",
    "beta": "mu mass momentum momentum_beta beta1 beta_1 b1 gamma decay",
    "nesterov": "use_nesterov nesterov_momentum nesterovs_momentum",
    "dampening": "damping",
    "eps": "epsilon",
    "eps_hat": "epsilon_hat",
    "eps_inside_sqrt": "eps_root epsilon_root eps_in_sqrt",
    "amsgrad": "ams_grad use_amsgrad",
    "vmax": "amsgrad ams_grad use_amsgrad max_exp_avg_sq v_max",
    "bias_correction": "correct_bias use_bias_correction debias",
    "centered": "centred center",
    "lr_decay": "learning_rate_decay decay decay_rate",
    "initial_accumulator_value": "initial_accumulator init_acc",
    "momentum_decay": "schedule_decay",
    "trust_coefficient": "trust_coeff trust_coef eeta",
    "etas": "eta_minus eta_plus",
    "step_sizes": "min_step_size max_step_size step_size_min step_size_max",
    "lambd": "lambda_ lam",
    "weight_decay": "wd l2 l2_reg l2_regularization l2_lambda reg regularization lambda_ lam",
    "decoupled_weight_decay": "decoupled decoupled_decay weight_decouple decouple_weight_decay l2_is_weight_decay",
    "l1": "l1_reg l1_regularization l1_lambda",
    "maximize": "maximise",
    "grad_scale": "gradient_scale rescale_grad loss_scale loss_scale_factor",
    "clip_value": "clip clipvalue clip_grad clip_grad_value gradient_clip_value",
    "clip_norm": "global_clipnorm global_clip_norm max_norm max_grad_norm clip_grad_norm gradient_clip_val",
    "clip_norm_per_param": "clipnorm grad_clip clip_gradient",
    "average_decay": "ema ema_decay ema_momentum ema_rate use_ema use_averages average averages averaging polyak",
    "per_param": "param_groups per_parameter",
    "skip_nonfinite": "skip_nan skip_inf",
    "step": "t iteration iterations timestep time_step",
}
"""For each of our arguments what torch, Keras, Optax, scikit-learn, thinc, JAX's examples, courses and books call it. A
name stands under several where optimizers differ; the first one that is taken counts."""

_SCHEDULE = "lr, which may be a function of the step"
_SHOWN = {
    "etas": "etas=(eta_minus, eta_plus)", "step_sizes": "step_sizes=(smallest, largest)",
    "vmax": "vmax, an array like v",
    "lr_schedule": _SCHEDULE, "lr_scheduler": _SCHEDULE, "learning_rate_schedule": _SCHEDULE, "scheduler": _SCHEDULE,
    "loss_scale": "grad_scale=1 / loss_scale", "loss_scale_factor": "grad_scale=1 / loss_scale_factor",
    "use_ema": "average_decay, a number", "use_averages": "average_decay, a number",
    "weight_decouple": "decoupled_weight_decay, a number, in place of weight_decay",
    "decouple_weight_decay": "decoupled_weight_decay, a number, in place of weight_decay",
    "l2_is_weight_decay": "decoupled_weight_decay, a number, in place of weight_decay",
}
"""What a message shows for one of our names, or for one of theirs whose value means something else here."""


def suggestion(name: str, taken: Sequence[str], moments: int = 2) -> str | None:
    """What to write in place of an unknown option `name` where those in `taken` are known; None if nothing is close.

    `moments` is the number of betas.
    """
    theirs = name.lower()
    ours = next((our for our, others in _OTHERS.items() if our in taken and theirs in others.split()), None)
    if ours and theirs in _SHOWN:
        return _SHOWN[theirs]
    if not ours:
        from difflib import get_close_matches  # takes 1 ms to import, which most programs save

        ours = next(iter(get_close_matches(theirs, taken, 1, 0.8)), None)
    if ours == "betas":
        return f"betas=({', '.join(f'beta{i}' for i in range(1, moments + 1))})"
    return ours and _SHOWN.get(ours, ours)


def text(value: Any) -> str:
    """A value's repr without an address, and the qualified name of a function or class."""
    if callable(value) and isinstance(getattr(value, "__qualname__", None), str):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
