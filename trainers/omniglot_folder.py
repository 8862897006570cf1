"""The flag of the programs that read Omniglot: where it is."""

from absl import flags

DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where TFDS keeps Omniglot; it is downloaded there if it is absent. "
    "(default: TFDS' own folder)",
)
