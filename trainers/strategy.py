"""The flags --strategy and --devices, and what they make.

A program calls `chosen` before it does anything with TensorFlow, and makes its
model in the scope of what that returns. Under several workers each of them
runs the whole program; files and tables are the chief's.
"""

import functools
import json
import os
import re

import tensorflow as tf
from absl import flags

from keras_reptile import workers
from trainers.usage import UsageError

STRATEGY = flags.DEFINE_enum(
    "strategy",
    "none",
    ["none", "mirrored", "multiworker", "tpu"],
    "What shares out the tasks of a meta-iteration: nothing; the devices of "
    "this machine; the workers that TF_CONFIG names, or SLURM, see "
    "docs/distributed.md; or a TPU, which has never been tried.",
)
DEVICES = flags.DEFINE_list(
    "devices",
    None,
    "With --strategy=mirrored or multiworker, how many GPUs, or their names: "
    "GPU:0,GPU:2. Where there is no GPU, mirrored makes so many devices out "
    "of the processor. (default: all GPUs)",
)


def chosen() -> tf.distribute.Strategy:
    """The strategy of the flags, the same one at every call.

    Raises:
        UsageError: If there is no such strategy, or no such devices.
    """
    devices = DEVICES.value
    return _made(STRATEGY.value, None if devices is None else tuple(devices))


def is_chief() -> bool:
    """Whether this process is the one that writes and prints."""
    # Of the others it may not be made: it is for a child to make.
    return STRATEGY.value != "multiworker" or workers.is_chief(chosen())


def flags_for_a_child() -> list:
    """The same choice, for the command line of a process of one's own."""
    given = [f"--strategy={STRATEGY.value}"]
    if DEVICES.value is not None:
        given.append(f"--devices={','.join(DEVICES.value)}")
    return given


# A second strategy in one process would use the keys of the first one's
# collectives again.
@functools.cache
def _made(kind, devices):
    if devices is not None and kind in ("none", "tpu"):
        raise UsageError(
            "--devices is for --strategy=mirrored and multiworker. Received: "
            f"--strategy={kind} --devices={','.join(devices)}."
        )
    if kind == "mirrored":
        return _mirrored(devices)
    if kind == "multiworker":
        return _multiworker(devices)
    return _tpu() if kind == "tpu" else tf.distribute.get_strategy()


def _mirrored(devices):
    gpus = _physical("GPU")
    if devices is None:
        # Named, as without a GPU the strategy would warn of the processor.
        return tf.distribute.MirroredStrategy(gpus or ["CPU:0"])
    names = _names(devices, "GPU" if gpus else "CPU")
    if names[0].startswith("CPU"):
        _make_processors(1 + max(int(name[4:]) for name in names))
    else:
        _check_there(names, gpus)
    return tf.distribute.MirroredStrategy(names)


def _multiworker(devices):
    resolver = _resolver()
    if sum(map(len, resolver.cluster_spec().as_dict().values())) == 1:
        return _mirrored(devices)  # Nobody to wait for.
    if devices is not None:
        names = _names(devices, "GPU")
        _check_there(names, _physical("GPU"))
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices([gpus[int(n[4:])] for n in names], "GPU")
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _resolver():
    """Who the workers are, as TF_CONFIG or SLURM says."""
    resolvers = tf.distribute.cluster_resolver
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        cluster = json.loads(text)
        task = cluster["task"]
        known = task["index"] >= 0
        known = known and cluster["cluster"][task["type"]][task["index"]]
    except (ValueError, LookupError, TypeError):
        known = None
    if known:
        return resolvers.TFConfigClusterResolver()
    if text == "{}" and "SLURM_STEP_NUM_TASKS" in os.environ:
        if _physical("GPU"):
            return resolvers.SlurmClusterResolver()
        # By itself it would ask the driver of the GPUs.
        return resolvers.SlurmClusterResolver(
            gpus_per_node=0, gpus_per_task=0, auto_set_gpu=False
        )
    raise UsageError(
        "--strategy=multiworker must know the workers: from TF_CONFIG, such as "
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": '
        '{"type": "worker", "index": 0}}, with an index of its own for each, '
        "or from `srun`. On one machine `python -m trainers.launch` sets it. "
        f"Received: TF_CONFIG={os.environ.get('TF_CONFIG')!r}."
    )


def _tpu():
    """Untried: TensorFlow 2.21 has no release for TPUs."""
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UsageError(
            "--strategy=tpu needs a TPU VM and a TensorFlow built for it, or "
            f"TPU_NAME for a remote one. Received: TPU_NAME={name}, and "
            f"{type(error).__name__}: {error}"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _physical(kind):
    return [
        f"{kind}:{i}"
        for i, _ in enumerate(tf.config.list_physical_devices(kind))
    ]


def _names(devices, kind) -> list:
    """Names out of a number, or the names themselves."""
    if len(devices) == 1 and devices[0].isdecimal() and int(devices[0]):
        return [f"{kind}:{i}" for i in range(int(devices[0]))]
    names = [name.upper().removeprefix("/") for name in devices]
    kinds = {name[:3] for name in names}
    whole = all(re.fullmatch(r"[CG]PU:\d+", name) for name in names)
    if not names or not whole or len(kinds) > 1 or len(set(names)) < len(names):
        raise UsageError(
            "--devices is a number of at least 1, or different names of one "
            "kind, such as GPU:0,GPU:2. Received: "
            f"--devices={','.join(devices)}."
        )
    return names


def _check_there(names, there):
    missing = [name for name in names if name not in there]
    if missing:
        raise UsageError(
            f"--devices asks for {', '.join(missing)}, but this machine has "
            f"{', '.join(there) or 'no GPU'}. Ask for fewer; a worker without "
            "a GPU is one replica, and takes no --devices."
        )


def _make_processors(count):
    """Has TensorFlow see the processor as several devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(logical) < count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
