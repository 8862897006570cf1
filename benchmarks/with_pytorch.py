"""Expert PyTorch: the network as functions, channels last, fused Adam.

Tried besides: `torch.func.vmap` over the tasks (which makes grouped
convolutions), reported as a contestant of its own.
"""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import work as work_items


def contestants() -> dict:
    """Functions `(work) -> run`, where `run(n)` returns the last loss."""
    return {
        "PyTorch, channels_last": lambda work: prepare(work, _run_one_by_one),
        "PyTorch, torch.func.vmap": lambda work: prepare(work, _run_by_vmap),
    }


def prepare(work, run_tasks):
    """Meta-iterations over the same first episodes, again and again."""
    torch.set_num_threads(2)
    weights = initial_weights(work)
    data = [(from_numpy(x), from_numpy(y)) for x, y in work_items.arrays(work)]
    moments = [torch.zeros_like(w) for w in weights]
    state = {"weights": weights, "moments": moments, "step": 0, "number": 0}

    def run(count):
        total = 0.0
        for _ in range(count):
            x, y = data[state["number"] % len(data)]
            ends, moments, loss = run_tasks(
                state["weights"], state["moments"], state["step"], x, y
            )
            state["weights"], state["moments"] = ends, moments
            state["step"] += work.steps
            state["number"] += 1
            total += float(loss)
        return total / count

    return run


def initial_weights(work) -> list:
    """The fixed weights, kernels as PyTorch has them."""
    return [_to_torch(w) for w in work_items.initial_weights(work)]


def from_numpy(array):
    """A tensor; images have their channels before rows and columns."""
    if array.ndim > 3:
        array = np.ascontiguousarray(np.moveaxis(array, -1, -3))
    return torch.from_numpy(array)


def channels_last(tensor):
    """The same images, laid out with their channels last."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _to_torch(weight):
    weight = torch.from_numpy(weight)
    if weight.dim() == 4:
        weight = weight.permute(3, 2, 0, 1)
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


# As TensorFlow pads "same": left, right, top, bottom.
_PADDING = [(0, 1, 0, 1), (0, 1, 0, 1), (1, 1, 1, 1), (0, 1, 0, 1)]


def network(weights, x):
    """Logits of the paper's network, batch norm by the batch at hand."""
    for layer, padding in enumerate(_PADDING):
        kernel, bias, scale, offset = weights[4 * layer : 4 * layer + 4]
        if padding == (1, 1, 1, 1):
            x = F.conv2d(x, kernel, bias, stride=2, padding=1)
        else:
            x = F.conv2d(F.pad(x, padding), kernel, bias, stride=2)
        epsilon = work_items.BATCH_NORM_EPSILON
        x = F.batch_norm(x, None, None, scale, offset, True, eps=epsilon)
        x = F.relu(x)
    # Flattened as Keras does, channels last.
    x = x.permute(0, 2, 3, 1).flatten(1)
    return x @ weights[16] + weights[17]


def loss(weights, x, y):
    return F.cross_entropy(network(weights, x), y, reduction="sum")


def _rate(step):
    return work_items.RATE * (1 - work_items.BETA_2**step) ** 0.5


def _run_one_by_one(weights, moments, step, x, y):
    tasks, steps, batch = y.shape
    ends, end_moments, total = [], [], 0.0
    for task in range(tasks):
        fast = [w.clone().requires_grad_() for w in weights]
        second = [m.clone() for m in moments]
        for i in range(steps):
            value = loss(fast, channels_last(x[task, i]), y[task, i])
            gradients = torch.autograd.grad(value, fast)
            with torch.no_grad():
                torch._foreach_mul_(second, work_items.BETA_2)
                torch._foreach_addcmul_(
                    second, gradients, gradients, 1 - work_items.BETA_2
                )
                divisor = torch._foreach_sqrt(second)
                torch._foreach_add_(divisor, work_items.EPSILON)
                torch._foreach_addcdiv_(
                    fast, gradients, divisor, -_rate(step + i + 1)
                )
            total += float(value.detach()) / batch
        ends.append([w.detach() for w in fast])
        end_moments.append(second)
    return _mean(ends), _mean(end_moments), total / (tasks * steps)


def _mean(lists):
    return [torch.stack(parts).mean(0) for parts in zip(*lists)]


def _run_by_vmap(weights, moments, step, x, y):
    tasks, steps, batch = y.shape
    differentiate = torch.func.vmap(torch.func.grad_and_value(loss))
    fast = [w.expand(tasks, *w.shape).clone() for w in weights]
    second = [m.expand(tasks, *m.shape).clone() for m in moments]
    total = 0.0
    for i in range(steps):
        gradients, losses = differentiate(fast, x[:, i], y[:, i])
        torch._foreach_mul_(second, work_items.BETA_2)
        torch._foreach_addcmul_(
            second, gradients, gradients, 1 - work_items.BETA_2
        )
        divisor = torch._foreach_sqrt(second)
        torch._foreach_add_(divisor, work_items.EPSILON)
        torch._foreach_addcdiv_(fast, gradients, divisor, -_rate(step + i + 1))
        total += float(losses.mean()) / batch
    means = [w.mean(0) for w in fast], [m.mean(0) for m in second]
    return *means, total / steps
