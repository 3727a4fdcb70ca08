"""Optimizers that train a model as if its weights were products: no change to the model."""

from overparam.optim.end_to_end import EndToEnd
from overparam.optim.factored import Factored
from overparam.optim.radial import Radial

__all__ = ["EndToEnd", "Factored", "Radial"]
