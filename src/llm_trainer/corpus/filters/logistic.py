"""Logistic regression by L-BFGS, for features that are only known as products with a vector.

Limited-memory BFGS with the two-loop recursion (Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm 7.4)
and backtracking until Armijo's condition holds. Sums are NumPy's own pairwise ones, never BLAS: their last bit does
not depend on the number of threads, so the same texts give the same weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_MEMORY = 8
_TOLERANCE = 1e-6


def fit_logistic(
    dot: Callable[[Vector], Vector],
    transposed_dot: Callable[[Vector], Vector],
    targets: Vector,
    importance: Vector,
    *,
    size: int,
    penalty: float,
    iterations: int,
) -> tuple[Vector, float]:
    """Minimise ``(importance * cross_entropy).sum() + penalty / 2 * (weights ** 2).sum()``; the bias is not penalised.

    Args:
        dot: weights (size,) -> the sum of every text (texts,).
        transposed_dot: values (texts,) -> their sum over the texts by feature (size,).
        targets: (texts,) of 0 and 1.
        importance: (texts,) weight of every text; adds up to 1.
        size: number of weights.
        penalty: strength of the L2 penalty.
        iterations: most steps.

    Returns:
        The weights and the bias.
    """

    def objective(point: Vector) -> tuple[float, Vector]:
        margins = dot(point[:-1]) + point[-1]
        # log(1 + exp(m)) - t*m without overflow.
        losses = np.logaddexp(0, margins) - targets * margins
        value = float((importance * losses).sum() + penalty / 2 * np.square(point[:-1]).sum())
        residual = importance * (1 / (1 + np.exp(-np.clip(margins, -40, 40))) - targets)
        return value, np.append(transposed_dot(residual) + penalty * point[:-1], residual.sum())

    point = np.zeros(size + 1)
    value, gradient = objective(point)
    history: deque[tuple[Vector, Vector, float]] = deque(maxlen=_MEMORY)
    for _ in range(iterations):
        if np.abs(gradient).max() < _TOLERANCE:
            break
        direction = -_inverse_hessian_times(gradient, history)
        slope = _inner(direction, gradient)
        # The first step has no curvature to go by; one of length 1 is a safe guess for weights that begin at 0.
        step = 1.0 if history else 1 / np.sqrt(_inner(gradient, gradient))
        for _ in range(30):
            new_point = point + step * direction
            new_value, new_gradient = objective(new_point)
            if new_value <= value + 1e-4 * step * slope:
                break
            step /= 2
        else:
            break
        change, bend = new_point - point, new_gradient - gradient
        curvature = _inner(change, bend)
        if curvature > 1e-12:
            history.append((change, bend, 1 / curvature))
        point, value, gradient = new_point, new_value, new_gradient
    return point[:-1], float(point[-1])


def _inverse_hessian_times(vector: Vector, history: deque[tuple[Vector, Vector, float]]) -> Vector:
    result: Vector = vector.copy()
    along = []
    for change, bend, inverse in reversed(history):
        amount = inverse * _inner(change, result)
        along.append(amount)
        result -= amount * bend
    if history:
        change, bend, inverse = history[-1]
        result *= 1 / (inverse * _inner(bend, bend))
    for (change, bend, inverse), amount in zip(history, reversed(along)):
        result += (amount - inverse * _inner(bend, result)) * change
    return result


def _inner(left: Vector, right: Vector) -> float:
    return float((left * right).sum())
