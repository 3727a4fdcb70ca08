"""Explicit factors in a model: overparameterize before training, collapse after."""

from overparam.factors.initialize import initial_factors
from overparam.reparam.checkpoint import collapse_state_dict, expand_state_dict
from overparam.reparam.collapse import collapse, collapsed
from overparam.reparam.cost import StepCost, predict_step_cost, product_seconds
from overparam.reparam.overparameterize import overparameterize
from overparam.reparam.plan import Plan, PlanEntry, plan_overparameterization
from overparam.reparam.training import AveragedWeights, clip_grad_norm_, weight_gradients
from overparam.reparam.weight_decay import set_weight_decay_on

__all__ = [
    "AveragedWeights",
    "Plan",
    "PlanEntry",
    "StepCost",
    "clip_grad_norm_",
    "collapse",
    "collapse_state_dict",
    "collapsed",
    "expand_state_dict",
    "initial_factors",
    "overparameterize",
    "plan_overparameterization",
    "predict_step_cost",
    "product_seconds",
    "set_weight_decay_on",
    "weight_gradients",
]
