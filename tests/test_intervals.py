"""When a run evaluates and saves, for calls of several meta-steps."""

import pytest

from keras_reptile.intervals import Intervals

NOTHING = (False, False)


def of_epoch(intervals, *, start=0, length=12, call=1):
    """Per meta-step what is due, `"end"` being that of the epoch."""
    intervals.begin_epoch(start, length)
    steps = range(start + call, start + length + 1, call)
    due = {step: intervals.passed(step) for step in steps}
    due["end"] = intervals.at_end_of_epoch()
    return {step: what for step, what in due.items() if what != NOTHING}


def test_multiples_of_the_meta_step_whichever_the_epoch_began_at():
    assert of_epoch(Intervals(5, 4, 3), start=3) == {
        4: (False, True),
        5: (True, False),
        8: (False, True),
        10: (True, False),
        12: (False, True),
        15: (True, False),
    }


def test_a_call_that_passes_a_multiple_is_asked_once():
    assert of_epoch(Intervals(5, 100, 0), call=4) == {
        8: (True, False),
        12: (True, False),
    }


def test_ends_of_epochs_where_no_interval_is_given():
    assert of_epoch(Intervals(None, None, 0)) == {"end": (True, True)}
    assert of_epoch(Intervals(6, None, 0)) == {
        6: (True, False),
        12: (True, False),
        "end": (False, True),
    }


@pytest.mark.parametrize("call", [1, 3])
def test_a_checkpoint_waits_for_the_evaluation_of_its_step(call):
    intervals = Intervals(None, 6, 0)
    once = {6: (False, True), "end": (True, True)}
    assert of_epoch(intervals, call=call) == once
    # The epoch after that ends between two checkpoints.
    assert of_epoch(intervals, start=12, length=9, call=call) == {
        18: (False, True),
        "end": (True, False),
    }
