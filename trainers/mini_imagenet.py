"""Meta-trains the paper's network on mini-ImageNet and prints its table.

Usage:
    python -m trainers.mini_imagenet --preset=m15 --data_dir=data/mini
    python -m trainers.mini_imagenet --preset=m15 --data_dir=data/mini --resume

The folder holds train|val|test/<wnid>/*.JPEG, or the usual pickles; without
them the program says what to put where. It trains on the 64 training classes,
validates on the 16 validation ones as it goes, and reports on the 20 test
ones, in both ways to score.

A preset is a row of the paper's table of hyper-parameters (Nichol, Achiam &
Schulman 2018, appendix A), and any flag given besides replaces its entry.
Flags have the names of the original's (openai/supervised-reptile).
"""

import pathlib

import tensorflow as tf
from absl import app, flags
from tensorboard.backend.event_processing import event_accumulator

import keras_reptile as kr
from trainers import common, few_shot, presets, strategy
from trainers.usage import UsageError

presets.define(presets.MINI_IMAGENET, default="m15")
for _module in (common, few_shot, presets):
    flags.adopt_module_key_flags(_module)

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder that holds mini-ImageNet."
)
_RESIZE = flags.DEFINE_enum(
    "resize",
    "nearest",
    ["nearest", "bicubic"],
    "Of image files, to 84 by 84; nearest is the original's.",
)
_ANY_CLASSES = flags.DEFINE_boolean(
    "any_classes",
    False,
    "Takes other classes than the paper's, with any number of images.",
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Where decoded images are kept, 1.3 GB. (default: ~/.cache/keras_reptile)",
)


def main(argv):
    if len(argv) > 1:
        raise UsageError(f"Expected flags only, got {argv[1:]}.")
    settings = few_shot.chosen(presets.MINI_IMAGENET)
    logdir = common.usable_logdir(flags.FLAGS.preset)
    common.stop_on_sigterm(logdir)
    common.say("Reading mini-ImageNet...")
    try:
        splits = kr.data.mini_imagenet(
            _DATA_DIR.value,
            _RESIZE.value,
            "any" if _ANY_CLASSES.value else "paper",
            _CACHE_DIR.value,
        )
    except ValueError as error:  # Of the data, which the user is to mend.
        raise UsageError(str(error)) from None
    network = kr.models.mini_imagenet_cnn
    few_shot.run("mini-ImageNet", network, splits, settings, logdir)
    if strategy.is_chief():
        draw(pathlib.Path(logdir))


def draw(logdir):
    """Draws validation accuracy by meta-iteration, where matplotlib is."""
    try:
        figure, axes = common.new_figure(1)
    except UsageError as error:  # The run itself is whole.
        common.say(error)
        return
    # From the log, as it has what was before a resumption.
    events = event_accumulator.EventAccumulator(str(logdir / "meta_steps"))
    events.Reload()
    steps, means, widths = [], [], []
    for mean, width in zip(
        events.Tensors("val_accuracy"), events.Tensors("val_accuracy_ci95")
    ):
        steps.append(mean.step)
        means.append(100 * tf.make_ndarray(mean.tensor_proto).item())
        widths.append(100 * tf.make_ndarray(width.tensor_proto).item())
    axes[0, 0].errorbar(steps, means, widths, marker=".", capsize=2)
    axes[0, 0].set_xlabel("meta-iterations")
    axes[0, 0].set_ylabel("validation accuracy, percent")
    common.save_figure(figure, logdir / "validation.png")
    common.say(f"Picture: {logdir / 'validation.png'}.")


if __name__ == "__main__":
    app.run(main)
