"""Programs, one experiment each: `python -m trainers.NAME --help`."""
