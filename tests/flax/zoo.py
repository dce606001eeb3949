"""Every kind of optimizer state that optax makes, over one small tree of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import surgery as sg


def params() -> dict[str, Any]:
    """Return parameters with a matrix that Adafactor factors, vectors, a scalar, and an empty subtree."""
    return {
        "enc": {"w": jnp.ones((128, 130)), "b": jnp.zeros(130)},
        "head": {"w": jnp.ones((4, 3)), "scale": jnp.array(2.0)},
        "empty": {},
    }


LEAF_LABELS = {"enc": {"w": "a", "b": "a"}, "head": {"w": "b", "scale": "b"}, "empty": {}}
PREFIX_LABELS = {"enc": "a", "head": "b", "empty": {}}
MASK = {"enc": {"w": True, "b": False}, "head": {"w": True, "scale": False}, "empty": {}}
PREFIX_MASK = {"enc": False, "head": True, "empty": {}}
schedule = optax.linear_schedule(1e-3, 0.0, 10)

ZOO: dict[str, Callable[[], Any]] = {
    "adabelief": lambda: optax.adabelief(1e-3),
    "adadelta": lambda: optax.adadelta(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3),
    "adafactor_momentum": lambda: optax.adafactor(1e-3, momentum=0.9, multiply_by_parameter_scale=False),
    "adagrad": lambda: optax.adagrad(1e-3),
    "adam": lambda: optax.adam(1e-3),
    "adam_bf16_mu": lambda: optax.adam(1e-3, mu_dtype=jnp.bfloat16),
    "adamax": lambda: optax.adamax(1e-3),
    "adamw": lambda: optax.adamw(schedule),
    "adamw_masked_decay": lambda: optax.adamw(1e-3, mask=MASK),
    "adan": lambda: optax.adan(1e-3),
    "amsgrad": lambda: optax.amsgrad(1e-3),
    "fromage": lambda: optax.fromage(1e-3),
    "lamb": lambda: optax.lamb(1e-3),
    "lars": lambda: optax.lars(1e-3),
    "lbfgs": lambda: optax.lbfgs(),
    "lion": lambda: optax.lion(1e-3),
    "nadam": lambda: optax.nadam(1e-3),
    "noise": lambda: optax.add_noise(0.1, 0.5, key=jax.random.key(0)),
    "novograd": lambda: optax.novograd(1e-3),
    "optimistic_gradient_descent": lambda: optax.optimistic_gradient_descent(1e-3),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "radam": lambda: optax.radam(1e-3),
    "rmsprop": lambda: optax.rmsprop(1e-3),
    "rmsprop_centered_momentum": lambda: optax.rmsprop(1e-3, centered=True, momentum=0.9),
    "rprop": lambda: optax.rprop(1e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "sgd_momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "sign_sgd": lambda: optax.sign_sgd(1e-3),
    "sm3": lambda: optax.sm3(1e-3),
    "yogi": lambda: optax.yogi(1e-3),
    # around others
    "chain_nested": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.chain(optax.adamw(schedule), optax.ema(0.9)), optax.scale(1.0)
    ),
    "named_chain": lambda: optax.named_chain(("z_clip", optax.clip(1.0)), ("a_adam", optax.adam(1e-3))),
    "ema": lambda: optax.ema(0.999),
    "apply_every": lambda: optax.apply_every(4),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(1e-3), 3),
    "conditionally_transform": lambda: optax.conditionally_transform(optax.adam(1e-3), lambda step: step < 3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=schedule),
    "lookahead": lambda: optax.lookahead(optax.adam(1e-3), 5, 0.5),
    "masked": lambda: optax.masked(optax.adam(1e-3), MASK),
    "masked_prefix": lambda: optax.masked(optax.adam(1e-3), PREFIX_MASK),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(1e-3), 4),
    "multi_transform": lambda: optax.multi_transform(
        {"a": optax.adam(1e-3), "b": optax.sgd(0.1, momentum=0.9)}, LEAF_LABELS
    ),
    "multi_transform_frozen": lambda: optax.multi_transform(
        {"a": optax.set_to_zero(), "b": optax.adam(1e-3)}, LEAF_LABELS
    ),
    "multi_transform_prefix": lambda: optax.multi_transform(
        {"a": optax.set_to_zero(), "b": optax.adam(1e-3)}, PREFIX_LABELS
    ),
    "zoom_linesearch": lambda: optax.scale_by_zoom_linesearch(5),
    "zero_nans": lambda: optax.zero_nans(),
    # contrib
    "acprop": lambda: contrib.acprop(1e-3),
    "ademamix": lambda: contrib.ademamix(1e-3),
    "cocob": lambda: contrib.cocob(),
    "dadapt_adamw": lambda: contrib.dadapt_adamw(),
    "dog": lambda: contrib.dog(1.0),
    "dowg": lambda: contrib.dowg(1.0),
    "galore": lambda: contrib.galore(1e-3),
    "madgrad": lambda: contrib.madgrad(1e-3),
    "mechanize": lambda: contrib.mechanize(optax.adam(1e-3)),
    "momo_adam": lambda: contrib.momo_adam(),
    "muon": lambda: contrib.muon(1e-3),
    "prodigy": lambda: contrib.prodigy(),
    "reduce_on_plateau": lambda: contrib.reduce_on_plateau(),
    "sam": lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "schedule_free": lambda: contrib.schedule_free(optax.adam(1e-3), 1e-3),
    "sophia": lambda: contrib.sophia(1e-3),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(1e-3)),
}

ZOO = {
    name: make for name, make in ZOO.items() if name not in ("galore", "madgrad") or hasattr(contrib, name)
}


def state_of(name: str) -> Any:
    """Return a fresh state; that of Lookahead follows the fast half of its double parameters."""
    return ZOO[name]().init(params_of(name))


def params_of(name: str) -> Any:
    """Return the parameters that the optimizer of this name takes."""
    return optax.LookaheadParams.init_synced(params()) if name == "lookahead" else params()


def counts(state: Any) -> dict[Any, Any]:
    """Return every counter of a state by path."""
    return {
        path: sg.flatten(state)[path] for path in sg.matches(state, "**/{count|step|step_count|mini_step}")
    }
