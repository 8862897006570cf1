"""keras-reptile as its user writes it: Keras layers, `MetaModel.fit`."""

import time

import keras

import keras_reptile as kr
from benchmarks import work as work_items


def contestants() -> dict:
    """Functions `(work) -> run`, where `run(n)` returns the last loss."""
    return {
        "keras-reptile, average": lambda work: prepare(work, "average"),
        "keras-reptile, carry": lambda work: prepare(work, "carry"),
        "keras-reptile, bfloat16": lambda work: prepare(
            work, "average", convolution_dtype="bfloat16"
        ),
    }


def prepare(
    work,
    inner_state,
    algorithm="reptile",
    inner_optimizer=None,
    outer_rate=1.0,
    loss="inner_loss",
    convolution_dtype=None,
):
    """`fit` on real episodes, drawn while it runs; `loss` is what it tells."""
    network = kr.models.omniglot_cnn(ways=work.ways)
    network.set_weights(_with_moving_averages(network, work))
    model = kr.MetaModel(network, algorithm, inner_state)
    model.compile(
        optimizer=keras.optimizers.SGD(outer_rate),
        inner_optimizer=inner_optimizer or _adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
        convolution_dtype=convolution_dtype,
    )
    stream = work_items.episodes(work)

    def run(count):
        # One epoch per call: its logs are of all its meta-iterations.
        watch = Watch()
        losses = model.fit(
            stream, steps_per_epoch=count, callbacks=[watch], verbose=0
        ).history
        run.seconds = watch.seconds(count)
        return losses[loss][-1]

    return run


def _adam():
    return keras.optimizers.Adam(
        work_items.RATE,
        beta_1=0.0,
        beta_2=work_items.BETA_2,
        epsilon=work_items.EPSILON,
    )


class Watch(keras.callbacks.Callback):
    """Time from the first meta-iteration's end to the last one's.

    A call of `fit` begins with checks and a new iterator, half a second that
    a training pays once.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._ends = []

    def on_train_batch_end(self, batch, logs=None):
        self._ends.append(time.perf_counter())

    def seconds(self, count):
        """Of `count` meta-iterations; `None` where one can't be told."""
        if count < 2:
            return None
        return (self._ends[-1] - self._ends[0]) * count / (count - 1)


def _with_moving_averages(network, work):
    """The weights in Keras' order, the moving averages as they are."""
    trained = iter(work_items.initial_weights(work))
    trainable = {id(v) for v in network.trainable_variables}
    return [
        next(trained) if id(v) in trainable else v.numpy()
        for v in network.weights
    ]
