"""A user's own algorithm: the README's, and what is refused."""

import dataclasses
import inspect
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, all_values, assert_same, blobs, meta_model
from test_algorithms import meta_gradient

import keras_reptile as kr
from keras_reptile.algorithms import combination


def last_two_steps(learner, state, task):
    """The example of the README."""
    steps = task.batches.shape[0]
    before = learner.part(0, steps - 2).adapt(state, task)
    adapted = learner.part(steps - 2, steps).adapt(before, task)
    change = [b - a for b, a in zip(before.weights, adapted.weights)]
    return change, adapted


def test_an_algorithm_of_ones_own():
    ours = combination([0, 0, 1, 1])
    assert meta_gradient(last_two_steps) == meta_gradient(ours)
    readme = pathlib.Path(__file__).parent.parent / "README.md"
    source = inspect.getsource(last_two_steps).splitlines()
    assert "\n".join(source[2:]) in readme.read_text()


def test_what_cannot_be_called_as_an_algorithm_is_refused():
    with pytest.raises(ValueError, match="or a function.*combination"):
        kr.algorithms.get(combination)


RETURNED = {
    "only the gradient": (lambda g, a: g, "`own`: list"),
    "nothing": (lambda g, a: None, "`own`: NoneType"),
    "turned round": (lambda g, a: (a, g), r"\(State, list\)"),
    "weights": (lambda g, a: (g, a.weights), r"\(list, list\)"),
    "one tensor": (lambda g, a: (g[0], a), "a meta-gradient of type"),
    "too few": (lambda g, a: (g[:2], a), "2 for 4 weights"),
    "too many": (lambda g, a: (g + g, a), "8 for 4 weights"),
    "none": (lambda g, a: ([None, *g[1:]], a), "None for weight 0.*ZERO"),
    "transposed": (
        lambda g, a: ([tf.transpose(x) for x in g], a),
        r"of shape \(5, 4\) for weight 0, which is float32 of shape \(4, 5\)",
    ),
    "whole numbers": (
        lambda g, a: ([tf.cast(x, "int32") for x in g], a),
        "int32 .* for weight 0, which is float32",
    ),
    "fewer slots": (lambda g, a: (g, a._replace(slots=[])), "a State of 0 slo"),
}


WANT_A_VALUE = {
    "if": lambda loss: "large" if loss > 1 else "small",
    "float": float,
    "numpy": lambda loss: loss.numpy(),
    "a function of NumPy": np.exp,
    "for": list,
}


@pytest.mark.parametrize("name", WANT_A_VALUE)
def test_the_value_of_a_tensor_is_not_there(name):
    def own(learner, state, task):
        adapted = learner.adapt(state, task)
        WANT_A_VALUE[name](adapted.loss)
        return [tf.zeros_like(w) for w in state.weights], adapted

    episodes = blobs(seed=0).episodes(SPEC)
    with pytest.raises(ValueError, match="`own`.*run_eagerly=True"):
        meta_model(algorithm=own).fit(episodes, steps_per_epoch=1)
    if name != "for":
        eager = meta_model(algorithm=own, run_eagerly=True)
        eager.fit(episodes, steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize(
    "fails, kind", [(lambda x: x.foo, AttributeError), (len("a"), TypeError)]
)
def test_an_error_of_an_algorithm_is_its_own(fails, kind):
    def own(learner, state, task):
        fails(state.weights[0])

    with pytest.raises(kind):
        meta_model(algorithm=own).fit(
            blobs(seed=0).episodes(SPEC), steps_per_epoch=1
        )


def test_what_xla_cannot_compile_is_named():
    def own(learner, state, task):
        adapted = learner.adapt(state, task)
        tf.print("loss", adapted.loss, output_stream="file:///dev/null")
        return [tf.zeros_like(w) for w in state.weights], adapted

    episodes = blobs(seed=0).episodes(SPEC)
    with pytest.raises(ValueError, match="StringFormat.*jit_compile=False"):
        meta_model(algorithm=own, jit_compile="auto").fit(
            episodes, steps_per_epoch=1
        )
    meta_model(algorithm=own).fit(episodes, steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", RETURNED)
def test_what_no_algorithm_returns_is_refused(name, jit_compile):
    returned, message = RETURNED[name]

    def own(learner, state, task):
        return returned(*kr.algorithms.get("reptile")(learner, state, task))

    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(3)]
    )
    model = kr.MetaModel(network, own)
    model.compile(loss=LOSS, jit_compile=jit_compile)
    with pytest.raises(ValueError, match=message):
        model.fit(blobs().episodes(SPEC, 2), steps_per_epoch=1, verbose=0)


def exact(learner, state, task):
    gradient, adapted = kr.algorithms.get("reptile")(learner, state, task)
    return tuple(tf.cast(part, "float64") for part in gradient), adapted


def of_a_function(learner, state, task):
    """As of an embedding, out of a function of its own: of unknown extent."""
    gradient, adapted = kr.algorithms.get("reptile")(learner, state, task)
    rows = [tf.fill([tf.shape(part)[0]], True) for part in gradient]
    return [tf.boolean_mask(p, r) for p, r in zip(gradient, rows)], adapted


@pytest.mark.parametrize("own", [exact, of_a_function])
def test_what_can_be_made_a_meta_gradient_is(own):
    trained = []
    for algorithm in ("reptile", own):
        model = meta_model(algorithm=algorithm)
        model.fit(blobs().episodes(SPEC, 2), steps_per_epoch=2, verbose=0)
        trained.append(all_values(model))
    assert_same(*trained, exact=False)


@dataclasses.dataclass
class Scaled:
    """With settings, and as other dataclasses not hashable."""

    scale: float = 1.0

    def __call__(self, learner, state, task):
        adapted = learner.adapt(state, task)
        change = zip(state.weights, adapted.weights)
        return [self.scale * (b - a) for b, a in change], adapted


def test_an_algorithm_may_be_a_dataclass():
    assert meta_gradient(Scaled()) == meta_gradient("reptile")
    assert meta_gradient(Scaled(2.0)) != meta_gradient("reptile")


def test_a_part_of_a_part_is_refused():
    learner = meta_model().learner
    with pytest.raises(ValueError, match="that is a part already"):
        learner.part(1, 3).part(0, 1)
    for first, last in ((0.5, 2), (0, None), ("0", 2), (2, 1)):
        with pytest.raises(ValueError, match="A part of the inner loop begins"):
            learner.part(first, last)
