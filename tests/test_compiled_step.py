"""What XLA is given: the inner loop as accelerators need it, and this CPU.

GPUs and TPUs cannot be run here. What they need can be seen in the program:
static shapes, nothing that calls back to the host, no variable written. For
the CPU, no convolution, which it runs slowly inside a loop.
"""

import keras
import pytest
import tensorflow as tf

import keras_reptile as kr
from keras_reptile import task_loops
from keras_reptile.episodes import unstack

# The paper's training in 5 and in 20 ways.
WORK = {"w1": (5, 5, 10), "w2": (20, 10, 20)}
WRITES = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
CALLBACKS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2"}


def program(work, way):
    """A model of a work item, and what it compiles with its arguments."""
    ways, steps, batch = WORK[work]
    model = kr.MetaModel(kr.models.omniglot_cnn(ways))
    model.compile(
        optimizer=keras.optimizers.SGD(1.0),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
        jit_compile=True,
        task_execution=way,
    )
    spec = kr.EpisodeSpec(
        ways, shots=10, inner_steps=steps, inner_batch_size=batch
    )
    stream = kr.data.scribbles(25, seed=0).episodes(spec, meta_batch_size=5)
    tasks = next(iter(stream))

    def one(state, task):
        return model.algorithm(model.learner, state, task)

    if way == "vectorized":
        function = task_loops.vectorized(one)
    else:
        function, tasks = one, unstack(tasks)[0]
    return model, function, (model.initial_state(), tasks), stream


def operations(function, arguments):
    """Types of all TensorFlow operations, those of inner graphs too."""
    graph = (
        tf.function(function, autograph=False)
        .get_concrete_function(*arguments)
        .graph.as_graph_def()
    )
    inner = [node for f in graph.library.function for node in f.node_def]
    return {node.op for node in [*graph.node, *inner]}


def as_hlo(function, arguments):
    """XLA's program, its shapes written out."""
    flat = tf.nest.flatten(arguments)

    def of_flat(*flat):
        return function(*tf.nest.pack_sequence_as(arguments, flat))

    compiled = tf.function(of_flat, jit_compile=True, autograph=False)
    return compiled.experimental_get_compiler_ir(*flat)(stage="hlo")


@pytest.mark.parametrize(
    "work, way",
    [
        ("w1", "side_by_side"),
        ("w2", "side_by_side"),
        ("w1", "vectorized"),
        pytest.param("w2", "vectorized", marks=pytest.mark.slow),
    ],
)
def test_the_compiled_program(work, way):
    _, function, arguments, _ = program(work, way)
    used = operations(function, arguments)
    assert not used & (WRITES | CALLBACKS)
    hlo = as_hlo(function, arguments)
    assert "while(" in hlo and "dot(" in hlo
    assert "convolution(" not in hlo
    assert "custom-call(" not in hlo and "callback" not in hlo
    # So XLA writes an extent that is known at run time only.
    assert "<=" not in hlo


@pytest.mark.parametrize(
    "work", ["w1", pytest.param("w2", marks=pytest.mark.slow)]
)
def test_the_compiled_program_runs(work):
    model, _, _, stream = program(work, "side_by_side")
    history = model.fit(stream, steps_per_epoch=1, verbose=0).history
    assert 0 < history["inner_loss"][0] < 10


def test_a_convolution_that_is_not_lowered_would_be_seen():
    model, function, arguments, _ = program("w1", "side_by_side")
    model.learner.lower = False
    assert "convolution(" in as_hlo(function, arguments)
