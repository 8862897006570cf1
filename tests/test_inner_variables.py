"""Adapting some of the variables: the others stay, bit by bit."""

import functools

import keras
import numpy as np
import pytest
from conftest import SPEC, blobs, mlp

import keras_reptile as kr

BATCH_NORM = [False, False, True, True, False, False]
CHOICES = {
    "head": [False, False, False, False, True, True],
    "body": [True, True, True, True, False, False],
    "batch_norm": BATCH_NORM,
    "a layer": BATCH_NORM,
    "two layers": [True, True, True, True, False, False],
    "a path": [True, False, False, False, False, False],
    "a predicate": [False, True, False, False, False, True],
}


def choice_of(name, model):
    dense, norm, _ = model.layers
    return {
        "a layer": norm.name,
        "two layers": [dense.name, norm.name],
        "a path": dense.kernel.path,
        "a predicate": lambda v: v.path.endswith("bias"),
    }.get(name, name)


def compiled(network, inner_variables, algorithm="reptile", **settings):
    model = kr.MetaModel(network, algorithm)
    arguments = {
        "optimizer": keras.optimizers.SGD(0.5),
        # Its decay would move a weight that has no gradient.
        "inner_optimizer": keras.optimizers.AdamW(0.02, weight_decay=0.1),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "inner_weight_decay": 0.99,
        "jit_compile": False,
    }
    model.compile(**{**arguments, **settings}, inner_variables=inner_variables)
    return model


@pytest.mark.parametrize(
    "name, jit_compile",
    [
        *[(name, False) for name in ("batch_norm", "a path", "a predicate")],
        *[(name, True) for name in ("head", "body")],
        *[
            pytest.param(name, False, marks=pytest.mark.slow)
            for name in ("head", "body", "a layer", "two layers")
        ],
    ],
)
def test_the_others_are_bitwise_unchanged(name, jit_compile):
    network = mlp()
    model = compiled(network, choice_of(name, network), jit_compile=jit_compile)
    first = [v.numpy() for v in network.trainable_variables]
    model.fit(blobs().episodes(SPEC, 4), steps_per_epoch=2, verbose=0)
    trained = [v.numpy() for v in network.trainable_variables]
    x, y = np.random.rand(6, 4).astype("float32"), np.arange(6) % 3
    personal = model.adapt(x, y, steps=3)
    adapted = [v.numpy() for v in personal.trainable_variables]
    for before, after in ((first, trained), (trained, adapted)):
        changed = [(a != b).any() for a, b in zip(before, after)]
        # A bias before batch norm decays; it has no gradient.
        assert changed == CHOICES[name] or (
            name in ("body", "two layers", "a predicate")
            and changed[2:] == CHOICES[name][2:]
            and changed[0] == CHOICES[name][0]
        )


@pytest.mark.parametrize("name", ["head", "body", "batch_norm"])
def test_a_layer_of_such_a_name_is_refused_if_it_is_another(name):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="first" if name == "body" else name),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, name="body" if name == "body" else "last"),
        ]
    )
    with pytest.raises(ValueError, match=f"'{name}', and the model has a lay"):
        compiled(network, name)
    network.layers[0 if name != "body" else -1].name = "another"
    assert any(compiled(network, name).learner.adapts)


def test_a_head_may_be_called_so():
    layers = [keras.layers.Dense(3), keras.layers.Dense(3, name="head")]
    network = keras.Sequential([keras.Input((4,)), *layers])
    assert compiled(network, "head").learner.adapts == [False] * 2 + [True] * 2


def test_all_layers_of_one_name_are_adapted():
    parts = [
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a")])
        for _ in range(2)
    ]
    network = keras.Sequential([keras.Input((4,)), *parts])
    assert compiled(network, "a").learner.adapts == [True] * 4
    assert compiled(network, "head").learner.adapts == [False] * 2 + [True] * 2


def test_a_layer_in_place_of_its_name_is_refused():
    network = mlp()
    with pytest.raises(ValueError, match="names of layers.*Received: <Dense"):
        compiled(network, network.layers[-1])


@pytest.mark.parametrize(
    "algorithm",
    [
        functools.partial(kr.algorithms.get("reptile")),
        "foml",
        "joint",
        kr.algorithms.combination([0, 1, 1]),
    ],
)
def test_an_outer_decay_of_what_is_not_adapted_is_refused(algorithm):
    network = mlp()
    body = network.trainable_variables[:-2]
    outer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=f"{body[0].path}.* not adapted"):
        compiled(network, "head", algorithm, optimizer=outer)
    outer.exclude_from_weight_decay(var_list=body)
    model = compiled(network, "head", algorithm, optimizer=outer)
    before = [v.numpy() for v in network.trainable_variables]
    model.fit(blobs().episodes(SPEC, 4), steps_per_epoch=2, verbose=0)
    changed = [
        (b != v.numpy()).any()
        for b, v in zip(before, network.trainable_variables)
    ]
    assert changed == [False] * len(body) + [True] * 2


@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
def test_what_is_not_adapted_is_learned_from_the_queries(algorithm):
    network = mlp()
    model = compiled(network, "head", algorithm, inner_weight_decay=1.0)
    first = [v.numpy() for v in network.trainable_variables]
    model.fit(blobs().episodes(SPEC, 4), steps_per_epoch=2, verbose=0)
    trained = [v.numpy() for v in network.trainable_variables]
    assert (first[0] != trained[0]).any() and (first[2] != trained[2]).any()


def test_a_part_adapts_as_the_closed_form_says():
    """Head only, of two linear layers: gradient descent on the head."""
    network = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, use_bias=False),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    learner = kr.Learner(
        network, "mse", keras.optimizers.SGD(0.1), inner_variables="head"
    )
    body, head = network.get_weights()
    x, y = np.eye(2, dtype="float32"), np.array([[1.0], [2.0]], "float32")
    state = learner.step(learner.state(), x, y)
    slope = body.T @ (body @ head - y)  # Of the mean of two squares.
    np.testing.assert_array_equal(state.weights[0], body)
    np.testing.assert_allclose(state.weights[1], head - 0.1 * slope, rtol=1e-5)


def test_evaluation_may_adapt_a_part():
    network = mlp()
    model = compiled(network, None)
    everything, nothing_new, head, bias = (
        kr.evaluate(
            model,
            blobs(),
            kr.Protocol(
                ways=3,
                shots=3,
                inner_steps=20,
                num_episodes=30,
                inner_variables=choice,
            ),
        )["inductive"].per_episode
        for choice in (None, ["body", "head"], "head", network.layers[0].name)
    )
    np.testing.assert_array_equal(everything, nothing_new)
    assert (everything != head).any() and (head != bias).any()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("tail", "'tail'; the layers with"),
        (["head", 3], "names of layers"),
        (lambda v: False, "must leave something"),
        ([], "must leave something"),
    ],
)
def test_what_names_no_variable_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        compiled(mlp(), choice)
    model = compiled(mlp(), None)
    protocol = kr.Protocol(ways=3, shots=3, inner_variables=choice)
    with pytest.raises(ValueError, match=message):
        kr.evaluate(model, blobs(), protocol)


def test_it_is_saved_with_the_model_and_its_checkpoints(tmp_path):
    model = compiled(mlp(), "head")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.learner.adapts == CHOICES["head"]
    stream = blobs().episodes(SPEC, 4)
    trainer = kr.MetaTrainer(checkpoint_dir=tmp_path)
    model.fit(stream, steps_per_epoch=2, callbacks=[trainer], verbose=0)
    other = compiled(mlp(), "body")
    resuming = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="'adapted variables'"):
        other.fit(stream, steps_per_epoch=2, epochs=2, callbacks=[resuming])


def test_a_model_inside_a_model():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(6)]
    )
    network = keras.Sequential(
        [keras.Input((4,)), inner, keras.layers.Dense(3)]
    )
    select = kr.inner_variables.selected
    assert select(network, "head") == [False] * 4 + [True] * 2
    assert select(network, inner.name) == [True] * 4 + [False] * 2
    first = inner.layers[0].name
    assert select(network, first) == [True] * 2 + [False] * 4
