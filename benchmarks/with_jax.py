"""Expert JAX: one jitted meta-iteration.

`conv as product` scans the inner steps and maps or loops over the tasks;
`lax.conv` unrolls the inner steps, as XLA on the CPU runs a convolution
inside a loop about ten times too slowly.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import work as work_items


def contestants() -> dict:
    """Functions `(work) -> run`, where `run(n)` returns the last loss."""
    return {
        "JAX, product, vmap, scan": functools.partial(
            prepare, conv=product, vmap=True, unroll=False
        ),
        "JAX, product, loop, scan": functools.partial(
            prepare, conv=product, vmap=False, unroll=False
        ),
        "JAX, lax.conv, unrolled": functools.partial(
            prepare, conv=_lax_conv, vmap=False, unroll=True
        ),
    }


def prepare(work, conv, vmap, unroll):
    """Meta-iterations over the same first episodes, again and again."""
    weights = [jnp.asarray(w) for w in work_items.initial_weights(work)]
    data = [tuple(map(jnp.asarray, pair)) for pair in work_items.arrays(work)]
    meta = jax.jit(functools.partial(_meta, conv, vmap, unroll))
    moments = [jnp.zeros_like(w) for w in weights]
    state = {"now": (weights, moments, jnp.zeros(())), "number": 0}

    def run(count):
        losses = []
        for _ in range(count):
            x, y = data[state["number"] % len(data)]
            *now, loss = meta(*state["now"], x, y)
            state["now"] = tuple(now)
            state["number"] += 1
            losses.append(loss)
        return float(sum(losses) / count)

    return run


def product(x, kernel):
    """Stride 2, "same": slices, one concatenation, one matrix product."""
    size, _, channels, filters = kernel.shape
    extent = x.shape[1]
    out = -(-extent // 2)
    total = max((out - 1) * 2 + size - extent, 0)
    pad = (total // 2, total - total // 2)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    last = 2 * (out - 1) + 1
    taps = [
        x[:, i : i + last : 2, j : j + last : 2]
        for i in range(size)
        for j in range(size)
    ]
    patches = jnp.concatenate(taps, -1).reshape(-1, size * size * channels)
    product = patches @ kernel.reshape(-1, filters)
    return product.reshape(-1, out, out, filters)


def _lax_conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _batch_norm(x, scale, offset):
    y = x.reshape(-1, x.shape[-1])
    centred = y - y.mean(0)
    variance = (centred * centred).mean(0)
    factor = lax.rsqrt(variance + work_items.BATCH_NORM_EPSILON) * scale
    return (centred * factor + offset).reshape(x.shape)


def loss(conv, weights, x, y):
    for layer in range(work_items.LAYERS):
        kernel, bias, scale, offset = weights[4 * layer : 4 * layer + 4]
        x = jax.nn.relu(_batch_norm(conv(x, kernel) + bias, scale, offset))
    logits = x.reshape(len(x), -1) @ weights[16] + weights[17]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
    return -chosen.sum()


def _adapt(conv, unroll, weights, moments, count, x, y):
    def step(carry, batch):
        weights, moments, count = carry
        value, gradients = jax.value_and_grad(functools.partial(loss, conv))(
            weights, *batch
        )
        count += 1
        beta = work_items.BETA_2
        rate = work_items.RATE * jnp.sqrt(1 - beta**count)
        moments = [
            beta * m + (1 - beta) * g * g for m, g in zip(moments, gradients)
        ]
        weights = [
            w - rate * g / (jnp.sqrt(m) + work_items.EPSILON)
            for w, g, m in zip(weights, gradients, moments)
        ]
        return (weights, moments, count), value / len(batch[1])

    steps = len(y) if unroll else 1
    carry, losses = lax.scan(
        step, (weights, moments, count), (x, y), unroll=steps
    )
    return *carry, losses.mean()


def _meta(conv, vmap, unroll, weights, moments, count, x, y):
    adapt = functools.partial(_adapt, conv, unroll, weights, moments, count)
    if vmap:
        ends = jax.vmap(adapt)(x, y)
    else:
        each = [adapt(x[t], y[t]) for t in range(len(y))]
        ends = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    weights, moments, counts, loss = ends
    mean = functools.partial(jax.tree.map, lambda a: a.mean(0))
    return mean(weights), mean(moments), counts[0], loss.mean()
