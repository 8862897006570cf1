"""Meta-trains the paper's network on Omniglot and prints its table.

Usage:
    python -m trainers.omniglot --preset=o15 --logdir=runs/o15
    python -m trainers.omniglot --preset=o15 --logdir=runs/o15 --resume
    python -m trainers.omniglot --preset=o15 --meta_iters=3000

A preset is a row of the paper's table of hyper-parameters (Nichol, Achiam &
Schulman 2018, appendix A), and any flag given besides replaces its entry.
Both shot numbers of the paper and both ways to score are reported from one
run, since the trained weights are the same: o15 = o55 and o120 = o520.

Flags have the names of the original's (openai/supervised-reptile), with
underscores for hyphens; --preset=original starts from its defaults, and with it
a command of the original trains the same here. (--eval_interval has a default
of its own, and --transductive is of validations: the table has both modes.)
There is no --pretrained, which is --resume on a finished run. --seed chooses
initial weights and episodes, the original's the characters, which are always
those of its seed 0 here.
"""

from absl import flags

import keras_reptile as kr
from trainers import common, few_shot, omniglot_folder, presets, usage

presets.define(presets.OMNIGLOT, default="o15")
for _module in (common, few_shot, omniglot_folder, presets):
    flags.adopt_module_key_flags(_module)

_VALIDATION_CHARACTERS = flags.DEFINE_integer(
    "validation_characters",
    0,
    "Characters taken out of the training ones to validate on; the paper's "
    "presets train on all of them.",
    lower_bound=0,
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "reference",
    ["reference", "tfds"],
    "The original's 1,200 / 423 characters, or background / evaluation.",
)


def main():
    usage.refuse_without(
        _VALIDATION_CHARACTERS.value,
        "validation_characters",
        "validation_samples",
    )
    settings = few_shot.chosen(presets.OMNIGLOT)
    logdir = common.usable_logdir(flags.FLAGS.preset)
    common.stop_on_sigterm(logdir)
    splits = kr.data.omniglot(
        omniglot_folder.DATA_DIR.value,
        _SPLIT.value,
        _VALIDATION_CHARACTERS.value,
    )
    network = kr.models.omniglot_cnn
    few_shot.run("Omniglot", network, splits, settings, logdir)


if __name__ == "__main__":
    usage.run(main)
