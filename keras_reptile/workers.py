"""Several processes that train one model: what they have to agree on.

Under `tf.distribute.MultiWorkerMirroredStrategy` every worker runs the same
program, and each call here has to be made by all of them. Files are the
chief's: it alone reads and writes, and tells the others.
"""

import numpy as np
import tensorflow as tf


def number_of_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes run the program together.

    Args:
        strategy: The one that they train under.

    Returns:
        Their number; 1 under any strategy of one process.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec()
    jobs = set(cluster.jobs) & {"chief", "worker"}
    return max(1, sum(cluster.num_tasks(job) for job in jobs))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that reads and writes files.

    Args:
        strategy: The one that it trains under.

    Returns:
        Whether it is.
    """
    return strategy.extended.should_checkpoint


def from_chief(strategy: tf.distribute.Strategy, message: bytes = b"") -> bytes:
    """What the chief passes, on every worker.

    Args:
        strategy: The one that they train under.
        message: Bytes; those of other workers are not looked at.

    Returns:
        The chief's message.
    """
    if number_of_workers(strategy) == 1:
        return message
    message = message if is_chief(strategy) else b""
    size = int(_sum(strategy, np.array([len(message)], np.int32))[0])
    words = np.zeros(-(-size // 4), np.int32)
    words.view(np.uint8)[: len(message)] = np.frombuffer(message, np.uint8)
    return _sum(strategy, words).tobytes()[:size] if size else b""


def any_worker(strategy: tf.distribute.Strategy, says_so: bool) -> bool:
    """Whether one worker at least says so.

    Args:
        strategy: The one that they train under.
        says_so: What this process says.

    Returns:
        The same on all of them.
    """
    if number_of_workers(strategy) == 1:
        return says_so
    return bool(_sum(strategy, np.array([says_so], np.int32))[0])


def _sum(strategy, values):
    """The sum of an int32 array over workers, each with one of its own."""
    replicas = strategy.num_replicas_in_sync // number_of_workers(strategy)

    def of_replica(context):
        first = context.replica_id_in_sync_group % replicas == 0
        return tf.constant(values if first else np.zeros_like(values))

    placed = strategy.experimental_distribute_values_from_function(of_replica)
    return strategy.reduce("SUM", placed, axis=None).numpy()
