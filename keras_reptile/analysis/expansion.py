"""What the meta-gradients are to leading order in the inner rate.

With bars for gradients `g_i` and Hessians `H_i` of the batches at the initial
weights, and `a` the inner rate (Nichol, Achiam & Schulman 2018, section 5.1):

- AvgGrad = E[g_1], the gradient of the loss expected over the tasks;
- AvgGradInner = E[H_2 g_1], half the gradient of the inner product of two
  batches' gradients: descending `-AvgGradInner` makes them agree more.

A meta-gradient is `c0 * AvgGrad - c1 * a * AvgGradInner + O(a^2)`.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_reptile.analysis import inputs, vectors
from keras_reptile.analysis.meta_gradients import (
    ALGORITHMS,
    hessian_product,
    mean,
)
from keras_reptile.analysis.smoothness import check_smooth
from keras_reptile.episodes import Task
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner

# Directions that differ by less are not told apart in float32.
_PARALLEL = 1e-5


class Terms(NamedTuple):
    """AvgGrad and AvgGradInner, lists of tensors like the weights."""

    average_gradient: list
    average_gradient_inner: list


def coefficients(algorithm: str, batches: int) -> tuple[float, float]:
    """The paper's `(c0, c1)` for k batches of a task.

    MAML and FOMAML take the gradient of the last one after k - 1 inner steps,
    Reptile makes k inner steps.

    Args:
        algorithm: `"maml"`, `"fomaml"` or `"reptile"`.
        batches: k, at least 2.

    Returns:
        `(c0, c1)`.

    Raises:
        ValueError: If the algorithm is another one, or k no such number.
    """
    k = batches
    whole = isinstance(k, (int, np.integer))
    if algorithm not in ALGORITHMS or not whole or k < 2:
        raise ValueError(
            f"The expansion is of {ALGORITHMS} on at least 2 batches. "
            f"Received: algorithm={algorithm!r}, batches={batches!r}. Name "
            "one of these, and give a whole number of batches."
        )
    return {
        "maml": (1.0, 2.0 * (k - 1)),
        "fomaml": (1.0, 1.0 * (k - 1)),
        "reptile": (1.0 * k, k * (k - 1) / 2),
    }[algorithm]


def estimate_terms(
    learner: Learner, tasks: Task, num_tasks: int = 100
) -> Terms:
    """Estimates AvgGrad and AvgGradInner at the model's weights.

    The mean over tasks, and in each over all ordered pairs of its batches,
    by one Hessian-vector product per batch.

    Args:
        learner: The model and its loss.
        tasks: A batch of tasks with at least 2 inner batches each, or a
            stream of them. The log says so where batches of a task share
            examples.
        num_tasks: How many to take of a stream.

    Returns:
        `Terms`, of the variables that the learner adapts; zeros for others.

    Raises:
        ValueError: If the tasks do not suit the learner, or a task has one
            batch only.
    """
    tasks = inputs.checked_tasks(learner, tasks, num_tasks)
    _require_pairs(tasks)
    inputs.warn_of_shared_examples(tasks)
    check_smooth(learner, *tasks[0].support)
    learner, state = learner.unrounded(), learner.state()
    of_task = tf.function(
        lambda task: _terms_of_task(learner, state, task), autograph=False
    )
    return Terms(*mean([of_task(task) for task in tasks]))


def leading_order(
    learner: Learner, state: State, task: Task, rate: float
) -> dict[str, list]:
    """The expansion along one task's own batches, without an expectation.

    `meta_gradients` differs from it by `O(rate^2)`, noise free.

    Args:
        learner: The model and its loss.
        state: Initial weights and buffers.
        task: One episode with k inner batches.
        rate: The inner rate, above 0.

    Returns:
        By algorithm, lists like `state.weights`.

    Raises:
        ValueError: As `meta_gradients`.
    """
    inputs.check_task(learner, task)
    check_smooth(learner, *task.support)
    rate, learner = inputs.checked_rate(rate), learner.unrounded()
    gradients = _gradients(learner, state, task)
    last = len(gradients) - 1
    before_last = _sum(gradients[:-1], state)
    fomaml = vectors.plus(
        gradients[last],
        _product(learner, state, task, last, before_last),
        -rate,
    )
    maml, reptile = fomaml, _sum(gradients, state)
    for i in range(1, len(gradients)):
        earlier = _sum(gradients[:i], state)
        product = _product(learner, state, task, i, earlier)
        reptile = vectors.plus(reptile, product, -rate)
    for i in range(last):
        product = _product(learner, state, task, i, gradients[last])
        maml = vectors.plus(maml, product, -rate)
    return {"maml": maml, "fomaml": fomaml, "reptile": reptile}


def predict(terms: Terms, algorithm: str, batches: int, rate: float) -> list:
    """`c0 * AvgGrad - c1 * rate * AvgGradInner` with the paper's numbers.

    Args:
        terms: AvgGrad and AvgGradInner.
        algorithm: As `coefficients` has it.
        batches: k.
        rate: The inner rate, above 0.

    Returns:
        A list of tensors like the weights.

    Raises:
        ValueError: As `coefficients`, or if the rate is not above 0.
    """
    c0, c1 = coefficients(algorithm, batches)
    rate = inputs.checked_rate(rate)
    return vectors.plus(
        vectors.scaled(c0, terms.average_gradient),
        terms.average_gradient_inner,
        -c1 * rate,
    )


def fit_coefficients(
    terms: Terms, meta_gradient: list, rate: float
) -> tuple[float, float]:
    """The `(c0, c1)` that fit a measured meta-gradient best.

    Least squares over all weights.

    Args:
        terms: AvgGrad and AvgGradInner.
        meta_gradient: A list like the weights, one of those by algorithm.
        rate: The inner rate at which it was measured, above 0.

    Returns:
        `(c0, c1)`.

    Raises:
        ValueError: If it is not like the weights, the rate not above 0, a
            value not finite, or the two terms point the same way, so that no
            two coefficients can be told apart.
    """
    if isinstance(meta_gradient, dict):
        raise ValueError(
            "`meta_gradient` is the list of one algorithm. Received: a dict "
            f'of {list(meta_gradient)}. Give one of them, as measured["maml"].'
        )
    if not isinstance(terms, Terms):
        raise ValueError(
            "`terms` must be the kr.analysis.Terms of the same tasks. "
            f"Received: {type(terms).__name__}."
        )
    inputs.checked_vector(meta_gradient, terms.average_gradient)
    rate = inputs.checked_rate(rate)
    columns = [
        np.concatenate([np.ravel(part) for part in vector]).astype(np.float64)
        for vector in (*terms, meta_gradient)
    ]
    if not np.isfinite(columns).all():
        raise ValueError(
            "Coefficients are fitted to finite numbers. Received: NaN or "
            "infinity, as of a rate at which the inner loop diverges. Measure "
            "at a smaller rate."
        )
    basis = np.stack(columns[:2], axis=1)
    lengths = np.linalg.norm(basis, axis=0)
    directions = basis / np.where(lengths > 0, lengths, 1)
    fitted, _, rank, _ = np.linalg.lstsq(directions, columns[2], _PARALLEL)
    if rank < 2:
        raise ValueError(
            "AvgGrad and AvgGradInner must point different ways, so that there "
            "are two coefficients. Received: terms that are parallel, or one "
            "that is 0, as in a model of one weight. Measure on more weights, "
            "or compare with `predict`."
        )
    c0, c1 = fitted / lengths
    return float(c0), float(-c1 / rate)


def _terms_of_task(learner, state, task):
    gradients = _gradients(learner, state, task)
    count = len(gradients)
    total, inner = _sum(gradients, state), vectors.zeros(state.weights)
    for i, own in enumerate(gradients):
        others = vectors.plus(total, own, -1.0)
        inner = vectors.plus(inner, _product(learner, state, task, i, others))
    return (
        vectors.scaled(1 / count, total),
        vectors.scaled(1 / (count * (count - 1)), inner),
    )


def _gradients(learner, state, task):
    return [
        learner.gradient(state, *learner.batch(task, i))[0]
        for i in range(task.batches.shape[0])
    ]


def _product(learner, state, task, i, vector):
    batch = learner.batch(task, i)
    return hessian_product(learner, state, *batch, vector)


def _sum(lists, state):
    total = vectors.zeros(state.weights)
    for each in lists:
        total = vectors.plus(total, each)
    return total


def _require_pairs(tasks):
    fewest = min(task.batches.shape[0] for task in tasks)
    if fewest < 2:
        raise ValueError(
            "Pairs of batches need at least two in every task. Received: a "
            f"task of {fewest}. Set `inner_steps` of EpisodeSpec to 2 or more."
        )
