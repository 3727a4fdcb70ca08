"""Comparisons: does depth make the training of a model faster?"""

from overparam.lab.comparison.engine import compare
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.comparison.result import Result

__all__ = ["Problem", "Result", "compare", "problem"]
