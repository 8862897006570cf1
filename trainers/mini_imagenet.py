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

from absl import flags

import keras_reptile as kr
from trainers import common, few_shot, presets, usage

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


def main():
    settings = few_shot.chosen(presets.MINI_IMAGENET)
    logdir = common.usable_logdir(flags.FLAGS.preset)
    common.stop_on_sigterm(logdir)
    common.say("Reading mini-ImageNet...")
    splits = kr.data.mini_imagenet(
        _DATA_DIR.value,
        _RESIZE.value,
        "any" if _ANY_CLASSES.value else "paper",
        _CACHE_DIR.value,
    )
    network = kr.models.mini_imagenet_cnn
    few_shot.run("mini-ImageNet", network, splits, settings, logdir)


if __name__ == "__main__":
    usage.run(main)
