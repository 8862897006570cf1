"""--strategy and --devices: what they make, and what they refuse."""

import json

import pytest
import tensorflow as tf
from absl import app, flags
from absl.testing import flagsaver
from test_trainers import QUICK, run

from trainers import strategy


@pytest.fixture(autouse=True)
def _parsed(monkeypatch):
    """As `app.run` leaves them, without workers, and nothing made yet."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy._made.cache_clear()
    yield
    strategy._made.cache_clear()


@pytest.fixture
def made(monkeypatch):
    """Strategies by name and devices; real ones would have to be one."""
    monkeypatch.setattr(
        tf.distribute, "MirroredStrategy", lambda names: ("mirrored", names)
    )
    monkeypatch.setattr(
        tf.distribute,
        "MultiWorkerMirroredStrategy",
        lambda cluster_resolver: ("multiworker", cluster_resolver),
    )


def choose(kind, devices=None):
    devices = None if devices is None else devices.split(",")
    with flagsaver.flagsaver(strategy=kind, devices=devices):
        return strategy.chosen()


def test_none():
    assert choose("none") is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "devices, names",
    [
        (None, ["CPU:0"]),
        ("1", ["CPU:0"]),
        ("4", ["CPU:0", "CPU:1", "CPU:2", "CPU:3"]),
        ("cpu:1,/CPU:3", ["CPU:1", "CPU:3"]),
    ],
)
def test_mirrored(made, devices, names):
    assert choose("mirrored", devices) == ("mirrored", names)


def test_gpus(made, monkeypatch):
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: [kind] * 2
    )
    assert choose("mirrored")[1] == ["GPU:0", "GPU:1"]
    assert choose("mirrored", "1")[1] == ["GPU:0"]
    with pytest.raises(app.UsageError, match="GPU:2, but.*GPU:0, GPU:1. Ask"):
        choose("mirrored", "3")


CLUSTER = {
    "cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]},
    "task": {"type": "worker", "index": 1},
}


def test_multiworker(made, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    kind, resolver = choose("multiworker")
    assert kind == "multiworker" and resolver.task_id == 1


def test_one_worker_is_a_machine_by_itself(made, monkeypatch):
    config = {
        "cluster": {"worker": ["127.0.0.1:1"]},
        "task": {"type": "worker", "index": 0},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert choose("multiworker") == ("mirrored", ["CPU:0"])


@pytest.mark.parametrize(
    "kind, devices, message",
    [
        ("none", "2", "for --strategy=mirrored.*--strategy=none --devices=2"),
        ("tpu", "2", "for --strategy=mirrored"),
        ("mirrored", "0", "at least 1.*--devices=0"),
        ("mirrored", "CPU:0,CPU:0", "different names"),
        ("mirrored", "CPU:0,GPU:0", "of one kind"),
        ("mirrored", "TPU:0", "Received: --devices=TPU:0"),
        ("mirrored", "GPU:0", "GPU:0, but this machine has no GPU"),
        ("multiworker", None, '"index": 0.*trainers.launch.*TF_CONFIG=None'),
        ("tpu", None, "needs a TPU VM"),
    ],
)
def test_refused(made, kind, devices, message):
    with pytest.raises(app.UsageError, match=message):
        choose(kind, devices)


@pytest.mark.parametrize("config", ["{", "[]", '{"cluster": {"worker": []}}'])
def test_a_broken_tf_config(made, monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(app.UsageError, match="Received: TF_CONFIG='"):
        choose("multiworker")


def test_a_worker_without_a_gpu_has_one_device(made, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    with pytest.raises(app.UsageError, match="takes no --devices"):
        choose("multiworker", "2")


@pytest.mark.slow
def test_quickstart_on_devices_and_workers(tmp_path):
    """Three times the same table, and of workers only one."""

    def table(program, *arguments, folder):
        ended = run(program, *arguments, *QUICK, f"--logdir={folder}")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        lines = ended.stdout.splitlines()
        rows = [line for line in lines if "-shot  " in line]
        assert len(rows) == 2
        return [row.removeprefix("[worker 0] ") for row in rows]

    alone = table("quickstart", folder=tmp_path / "alone")
    devices = ("--strategy=mirrored", "--devices=2")
    assert table("quickstart", *devices, folder=tmp_path / "two") == alone
    workers = ("--workers=2", "--", "trainers.quickstart")
    assert table("launch", *workers, folder=tmp_path / "workers") == alone
