"""State to and from torch, Keras and Optax, so that a training run can switch libraries midway.

None of them is imported: what goes in and out are the dicts, lists and trees of arrays that they save and load. The
caller moves the parameters themselves. If a weight is transposed on the way, so must be its state arrays. Torch::

    fastopt.convert.from_torch(opt, torch_optimizer.state_dict(), keys=["fc1.weight", "fc1.bias", …])

    state_dict = fastopt.convert.to_torch(opt, keys=["fc1.weight", "fc1.bias", …])     # in torch's parameter order
    state_dict["state"] = {i: {name: torch.from_numpy(array) for name, array in entry.items()}
                           for i, entry in state_dict["state"].items()}
    torch_optimizer.load_state_dict(state_dict)

Keras 3::

    keras_optimizer.save_own_variables(store := {})
    fastopt.convert.from_keras(opt, store, keys=[…])                # in the order of trainable_variables

    keras_optimizer.build(model.trainable_variables)
    keras_optimizer.load_own_variables(fastopt.convert.to_keras(opt, keys=[…]))

Optax::

    fastopt.convert.from_optax(opt, opt_state)

    opt_state = jax.tree.map(jnp.asarray, fastopt.convert.to_optax(opt, optax_optimizer.init(params)))

Layers (BatchNorm, LayerNorm, RMSNorm, Dense, Embedding)::

    fastopt.convert.layer_from_torch(layer, module.state_dict())
    module.load_state_dict({name: torch.from_numpy(a) for name, a in fastopt.convert.layer_to_torch(layer).items()})

    fastopt.convert.layer_from_keras(layer, keras_layer.get_weights())
    keras_layer.set_weights(fastopt.convert.layer_to_keras(layer))

The hyper-parameters are the caller's. Those that differ are listed here; what is not listed has the same name or
meaning, and the same value must be given on both sides. An optimizer whose formula cannot be the same is refused.

torch.optim (2.13)
    The same classes, names and defaults. Without a counterpart there: l1, eps_hat, eps_inside_sqrt, bias_correction,
    decoupled_weight_decay (except in AdamW, Adam, NAdam and RAdam).

    =================================================  ==================================================
    SGD(lr, momentum=μ, nesterov=…)                    SGD, or Momentum(lr=lr, momentum=μ, nesterov=…)
    SGD(lr, momentum=β, dampening=β)                   SGDM(lr=lr, beta=β)
    RMSNorm(D)                                         RMSNorm(D, eps=2**-23)
    =================================================  ==================================================

    State: SGD buf momentum_buffer, SGDM m the same, Momentum v = −lr · momentum_buffer; Adagrad h sum; RMSprop v
    square_avg, buf momentum_buffer; Adadelta v square_avg, u acc_delta; Adam, AdamW, NAdam and RAdam m exp_avg, v
    exp_avg_sq, vmax max_exp_avg_sq; Adamax m exp_avg, u exp_inf; the others by the same name. torch's mu_product, eta
    and mu follow from the step; SGD keeps no step count there. With centered=True, v − ḡ² may round to a negative
    number: it is taken as 0 here and gives NaN in torch. torch stores the step count in float32, which is exact up to
    2²⁴.

Keras (3.15)
    beta_1 and beta_2 are betas, rho is RMSprop's alpha, and weight_decay is decoupled_weight_decay in every class,
    except AdamW and Lion, where it is weight_decay. Defaults differ: epsilon is 1e-7, learning rates are 0.001 (SGD's
    0.01), Adadelta's rho is 0.95.

    =================================================  ==================================================
    SGD(momentum=μ, nesterov=…)                        Momentum(momentum=μ, nesterov=…); SGD if lr is constant
    SGD(lr · (1 − β), momentum=β)                      SGDM(lr=lr, beta=β)
    Adagrad(epsilon=ε, initial_accumulator_value=0.1)  Adagrad(eps=ε, eps_inside_sqrt=True,
                                                       initial_accumulator_value=0.1)
    Adadelta(epsilon=ε)                                Adadelta(eps=ε)
    RMSprop(rho=α, epsilon=ε)                          RMSprop(alpha=α, eps=ε, eps_inside_sqrt=True)
    Adam(epsilon=ε), AdamW(epsilon=ε)                  Adam(eps=ε, eps_hat=True), AdamW(eps=ε, eps_hat=True)
    Adamax(epsilon=0.0)                                Adamax(eps=0.0): eps stands in another place
    Nadam(epsilon=ε)                                   NAdam(eps=ε, momentum_decay=1.0)
    Lion(beta_1, beta_2)                               Lion(betas=(beta_1, beta_2))
    Lamb(epsilon=ε)                                    LAMB(eps=ε, weight_decay=0.0)
    BatchNormalization(momentum=0.99, epsilon=1e-3)    BatchNorm(momentum=0.01, eps=1e-3, unbiased=False,
                                                       channel_axis=-1)
    LayerNormalization(epsilon=1e-3)                   LayerNorm(eps=1e-3)
    RMSNormalization(epsilon=1e-6)                     RMSNorm(eps=1e-6)
    =================================================  ==================================================

    State: momentum, velocity and norm are m, v and u; with momentum Keras' momentum is −lr · buf of SGD, −lr · m of
    SGDM, lr · buf of RMSprop, and Momentum's v.

Optax (0.2.8)
    b1 and b2 are betas, decay is RMSprop's alpha, and a chain's add_decayed_weights is weight_decay ahead of the
    scaling and decoupled_weight_decay (AdamW and Lion: weight_decay) after it.

    =================================================  ==================================================
    sgd(momentum=μ, nesterov=…)                        SGD; Momentum if lr is constant
    sgd(lr · (1 − β), momentum=β)                      SGDM(lr=lr, beta=β)
    adagrad(eps=1e-7, initial_accumulator_value=0.1)   Adagrad(eps=1e-7, eps_inside_sqrt=True,
                                                       initial_accumulator_value=0.1)
    adadelta                                           Adadelta
    rmsprop(decay=0.9, eps_in_sqrt=True)               RMSprop(alpha=0.9, eps_inside_sqrt=True)
    adam, adamw(weight_decay=1e-4)                     Adam, AdamW(weight_decay=1e-4)
    adamax                                             Adamax
    nadam                                              NAdam(momentum_decay=1e4): no schedule of the momentum
    radam(eps=0.0)                                     RAdam(eps=0.0): eps stands in another place
    lion(weight_decay=1e-3)                            Lion(weight_decay=1e-3)
    lamb(weight_decay=λ)                               LAMB(weight_decay=λ)
    lars(momentum=μ, eps=ε)                            LARS(momentum=μ, eps=ε), without weight_decay
    =================================================  ==================================================

    State: TraceState is SGD's buf, m / (1 − β) of SGDM, −v / lr of Momentum, −v of LARS and −lr · buf of RMSprop. Not
    converted: amsgrad (the largest *corrected* v there), adan (b2 has another place) and rprop (one step late).

The libraries may use fused multiply-adds, so one step may differ by a few units in the last place. Adam's eps ahead of
the correction is here eps · √(1 − β₂ᵗ), which is the same in exact arithmetic. Not converted: the averages of
average_decay; clip_value, clip_norm and skip_nonfinite; a function given as lr (torch gets its value at the next step).
"""

from fastopt.convert._keras import from_keras, to_keras
from fastopt.convert._layers import layer_from_keras, layer_from_torch, layer_to_keras, layer_to_torch
from fastopt.convert._optax import from_optax, to_optax
from fastopt.convert._torch import from_torch, to_torch

__all__ = ["from_keras", "from_optax", "from_torch", "layer_from_keras", "layer_from_torch", "layer_to_keras",
           "layer_to_torch", "to_keras", "to_optax", "to_torch"]
