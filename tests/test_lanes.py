"""The plan by which tasks share the cores."""

import pytest

from keras_reptile.lanes import Part, plan, worth_it


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8, 25])
def test_every_step_once_in_order_and_no_lane_too_long(tasks, steps, lanes):
    planned = plan(tasks, steps, lanes)
    assert len(planned) <= lanes
    times = {}
    for parts in planned:
        now = 0
        for task, first, last in parts:
            for step in range(first, last):
                assert (task, step) not in times
                times[task, step] = now = now + 1
        assert now <= max(-(-tasks * steps // lanes), steps)
    assert len(times) == tasks * steps
    for task in range(tasks):
        ends = [times[task, step] for step in range(steps)]
        assert ends == sorted(set(ends))


def test_the_papers_meta_batch_on_two_cores():
    assert plan(5, 5, 2) == [
        [Part(0, 0, 5), Part(1, 0, 5), Part(2, 2, 5)],
        [Part(2, 0, 2), Part(3, 0, 5), Part(4, 0, 5)],
    ]
    assert worth_it(5, 5, 2) and worth_it(5, 5, 4)
    assert not worth_it(4, 5, 2) and not worth_it(25, 5, 2)
    assert not worth_it(5, 5, 1) and not worth_it(1, 5, 4)
