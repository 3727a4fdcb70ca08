"""The selection of weights under the name it had up to version 0.1: see overparam.layers."""

from overparam.layers.select import select_parameters

__all__ = ["select_parameters"]
