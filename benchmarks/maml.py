"""MAML, second order through five inner steps, in each of the three.

The initial weights are the same, the inner loop is gradient descent, and the
outer step too. The peers: PyTorch by `autograd.grad(create_graph=True)` one
task after another and by `torch.func` mapped over tasks; JAX by `grad` through
the scanned inner loop, tasks mapped or looped over.
"""

import functools

from benchmarks import work as work_items

RATE, OUTER_RATE = 0.01, 0.01


def contestants() -> dict:
    """Functions `(work) -> run`, where `run(n)` returns the mean loss."""
    return {
        "keras-reptile, MAML": _keras_reptile,
        "PyTorch, MAML, autograd": functools.partial(_pytorch, vmap=False),
        "PyTorch, MAML, torch.func": functools.partial(_pytorch, vmap=True),
        "JAX, MAML, vmap, scan": functools.partial(_jax, vmap=True),
        "JAX, MAML, loop, scan": functools.partial(_jax, vmap=False),
    }


def _keras_reptile(work):
    import keras

    from benchmarks import with_keras_reptile

    return with_keras_reptile.prepare(
        work,
        "average",
        algorithm="maml",
        inner_optimizer=keras.optimizers.SGD(RATE),
        outer_rate=OUTER_RATE,
        loss="loss",
    )


def _run(update, data, state):
    """Meta-iterations over the same first episodes, again and again."""

    def run(count):
        total = 0.0
        for _ in range(count):
            episode = data[state["number"] % len(data)]
            state["weights"], loss = update(state["weights"], *episode)
            state["number"] += 1
            total += float(loss)
        return total / count

    return run


def _pytorch(work, vmap):
    import torch

    from benchmarks import with_pytorch

    torch.set_num_threads(2)

    def loss_after(weights, x, y, query_x, query_y):
        for i in range(len(y)):
            loss = with_pytorch.loss(weights, x[i], y[i])
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            weights = [w - RATE * g for w, g in zip(weights, gradients)]
        return with_pytorch.loss(weights, query_x, query_y) / len(query_y)

    def one_by_one(weights, *episode):
        weights = [w.requires_grad_() for w in weights]
        sums, total = [0.0] * len(weights), 0.0
        for task in zip(*episode):
            x, y, query_x, query_y = task
            query_x = with_pytorch.channels_last(query_x)
            x = [with_pytorch.channels_last(part) for part in x]
            loss = loss_after(weights, x, y, query_x, query_y)
            parts = torch.autograd.grad(loss, weights)
            sums = [s + p for s, p in zip(sums, parts)]
            total += float(loss.detach())
        return _moved(weights, [s / work.tasks for s in sums]), (
            total / work.tasks
        )

    def functional(weights, x, y, query_x, query_y):
        for i in range(y.shape[0]):
            gradients = torch.func.grad(with_pytorch.loss)(weights, x[i], y[i])
            weights = [w - RATE * g for w, g in zip(weights, gradients)]
        return with_pytorch.loss(weights, query_x, query_y) / len(query_y)

    mapped = torch.func.vmap(
        torch.func.grad_and_value(functional), (None, 0, 0, 0, 0)
    )

    def by_vmap(weights, *episode):
        gradients, losses = mapped(weights, *episode)
        return _moved(weights, [g.mean(0) for g in gradients]), losses.mean()

    def _moved(weights, gradients):
        with torch.no_grad():
            return [w - OUTER_RATE * g for w, g in zip(weights, gradients)]

    state = {"weights": with_pytorch.initial_weights(work), "number": 0}
    data = [
        [with_pytorch.from_numpy(part) for part in episode]
        for episode in work_items.arrays_with_queries(work)
    ]
    return _run(by_vmap if vmap else one_by_one, data, state)


def _jax(work, vmap):
    import jax
    import jax.numpy as jnp

    from benchmarks import with_jax

    loss = functools.partial(with_jax.loss, with_jax.product)

    def loss_after(weights, x, y, query_x, query_y):
        def step(weights, batch):
            gradients = jax.grad(loss)(weights, *batch)
            return [w - RATE * g for w, g in zip(weights, gradients)], None

        weights, _ = jax.lax.scan(step, weights, (x, y))
        return loss(weights, query_x, query_y) / len(query_y)

    def mean_loss(weights, *episode):
        if vmap:
            return jax.vmap(functools.partial(loss_after, weights))(
                *episode
            ).mean()
        losses = [loss_after(weights, *task) for task in zip(*episode)]
        return sum(losses) / len(losses)

    @jax.jit
    def update(weights, *episode):
        value, gradients = jax.value_and_grad(mean_loss)(weights, *episode)
        moved = [w - OUTER_RATE * g for w, g in zip(weights, gradients)]
        return moved, value

    weights = [jnp.asarray(w) for w in work_items.initial_weights(work)]
    data = [
        tuple(map(jnp.asarray, episode))
        for episode in work_items.arrays_with_queries(work)
    ]
    return _run(update, data, {"weights": weights, "number": 0})
