"""The tasks of a meta-batch, shared out among the replicas of a strategy.

Of T replicas the r-th takes tasks r * n to r * n + n - 1 of every meta-batch,
where n = ceil(tasks / T). Where a meta-batch does not divide, the last
replicas repeat its last task and leave it out of what they report, so that
the result is that of one device, and shapes are static. Tasks are functions
of their number: each worker draws its own and no others.
"""

import numpy as np
import tensorflow as tf

# What works with every meta-step waiting for all replicas.
_SYNCHRONOUS = (
    "one device, MirroredStrategy, MultiWorkerMirroredStrategy or TPUStrategy"
)


def check_strategy(strategy, model, inner_state: str) -> None:
    """Refuses what a meta-step cannot be shared out by.

    Args:
        strategy: A `tf.distribute.Strategy`.
        model: The inner model.
        inner_state: As given to `MetaModel`.

    Raises:
        ValueError: If replicas do not step together, slots are carried from
            task to task, or the model was made for another strategy.
    """
    kind = type(strategy).__name__
    if "ParameterServer" in kind or "CentralStorage" in kind:
        raise ValueError(
            "A meta-step is one update of all replicas together. Received: "
            f"{kind}, which is not supported. Use {_SYNCHRONOUS}."
        )
    replicas = strategy.num_replicas_in_sync
    if inner_state == "carry" and replicas > 1:
        raise ValueError(
            'inner_state="carry" passes the slots from task to task, so '
            "the tasks cannot be shared out among devices. Received: "
            f'{replicas} replicas. Use inner_state="average" or "accumulate".'
        )
    made_here = strategy.extended.variable_created_in_scope
    if not all(made_here(v.value) for v in model.variables):
        raise ValueError(
            "A model's variables must be made under the strategy it is "
            f"trained with. Received: model '{model.name}' made outside of "
            f"the scope of {kind}. Make the model, and the MetaModel, inside "
            "`with strategy.scope():`."
        )


def is_shared(strategy) -> bool:
    """Whether there are several replicas."""
    return strategy.num_replicas_in_sync > 1


def tasks_per_replica(tasks: int, replicas: int) -> int:
    """How many tasks each replica runs, repeated ones included."""
    return -(-tasks // replicas)


def share(dataset, strategy, elements: int | None = None):
    """A dataset of task batches as one that a strategy's replicas read.

    Args:
        dataset: A `tf.data.Dataset` of `Task`s with a leading task axis.
        strategy: A `tf.distribute.Strategy`.
        elements: How many will be read, so that no more are drawn; `None`
            does not say.

    Returns:
        `dataset` itself where there is one replica; else a
        `tf.distribute.DistributedDataset` whose elements have
        `tasks_per_replica` tasks for each replica. It must not be read past
        the end of `dataset`.
    """
    if not is_shared(strategy):
        return dataset
    tasks = dataset.element_spec.batches.shape[0]

    def of_worker(context):
        positions = positions_of_worker(
            tasks,
            strategy.num_replicas_in_sync,
            context.input_pipeline_id,
            context.num_input_pipelines,
        )
        if hasattr(dataset, "of_positions"):
            mine = dataset.of_positions(positions)
        else:
            mine = _chosen(dataset, positions)
        if elements is not None:
            mine = mine.take(elements * len(positions))
        # What may end gets elements of unknown size under several workers,
        # for the last one's sake.
        endless = tf.data.INFINITE_CARDINALITY
        return mine.apply(tf.data.experimental.assert_cardinality(endless))

    return strategy.distribute_datasets_from_function(of_worker)


def positions_of_worker(tasks, replicas, worker, workers) -> np.ndarray:
    """Which tasks of a meta-batch a worker's replicas take.

    Args:
        tasks: Tasks of a meta-batch.
        replicas: Replicas of all workers.
        worker: The worker's number.
        workers: How many there are, with as many replicas each.

    Returns:
        int64 of shape `(replicas // workers, tasks_per_replica)`.
    """
    each = tasks_per_replica(tasks, replicas)
    positions = np.arange(replicas * each).reshape(workers, -1, each)
    return np.minimum(positions[worker], tasks - 1)


def _chosen(dataset, positions):
    """The tasks at some positions of a dataset that is drawn as a whole."""

    def choose(tasks):
        return tf.nest.map_structure(
            lambda x: tf.gather(x, tf.constant(positions)), tasks
        )

    # Not `unbatch`, in which empty query sets end the process.
    each = dataset.map(choose, num_parallel_calls=2).flat_map(
        tf.data.Dataset.from_tensor_slices
    )
    return each.prefetch(4)


def replica_number() -> tf.Tensor:
    """This replica's number among all, an int64 scalar."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(replica, tf.int64)


def numbers_here(tasks: int, each: int) -> tf.Tensor:
    """Numbers, in their meta-batch, of the tasks of this replica.

    Args:
        tasks: Tasks of the whole meta-batch.
        each: Tasks of this replica.

    Returns:
        int64 of shape `(each,)`; those from `tasks` on only fill up.
    """
    return replica_number() * each + tf.range(each, dtype=tf.int64)


def sum_over_replicas(tensors: list) -> list:
    """Sums of tensors over all replicas, in one reduction.

    Called where a replica runs, outside of loops and conditions.

    Args:
        tensors: Floating-point tensors of static shapes, the same on all
            replicas.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    # In one dtype, as TensorFlow packs all it reduces into one vector.
    any_wide = any(tensor.dtype == tf.float64 for tensor in tensors)
    wide = tf.float64 if any_wide else tf.float32
    flat = tf.concat([tf.reshape(tf.cast(t, wide), [-1]) for t in tensors], 0)
    flat = context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    return [
        tf.cast(tf.reshape(part, tensor.shape), tensor.dtype)
        for part, tensor in zip(tf.split(flat, sizes), tensors)
    ]


def gathered(tensors: list) -> list:
    """The values of all replicas, in their order, on every one of them.

    Args:
        tensors: Tensors of static shapes `(n, ...)`, the same on all.

    Returns:
        Tensors of shapes `(replicas * n, ...)`.
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    mine = tf.one_hot(replica_number(), replicas)
    # A sum of one value and of zeros: exact.
    placed = [tf.tensordot(tf.cast(mine, t.dtype), t, 0) for t in tensors]
    return [
        tf.reshape(t, (-1, *t.shape[2:])) for t in sum_over_replicas(placed)
    ]
