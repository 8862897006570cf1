"""What ends a program as a command line that cannot be carried out."""

import keras
import pytest
from conftest import SPEC, blobs, meta_model

import keras_reptile as kr
from keras_reptile import settings
from trainers import usage


def of_this_project():
    kr.EpisodeSpec(ways=0, shots=1)


def of_keras_in_a_fit():
    layer = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: keras.layers.Dense(0)
    )
    meta_model().fit(
        blobs().episodes(SPEC, 2), steps_per_epoch=1, callbacks=[layer]
    )


def of_a_function_in_c():
    settings.of_protocol(None, None)  # Whose fields cannot be asked for.


def of_others():
    raise ValueError("other")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (of_this_project, True),
        (of_keras_in_a_fit, False),
        (of_a_function_in_c, False),
        (of_others, False),
    ],
)
def test_refusals_are_those_of_this_project(function, expected):
    with pytest.raises((ValueError, TypeError)) as caught:
        function()
    assert usage._is_refusal(caught.value) is expected


def test_a_checkpoint_of_before_there_were_checksums():
    there = {"seed": 1, "protocol of the evaluations": {"ways": 5}}
    here = {**there, settings.CHECKSUM: 7}
    here["protocol of the evaluations"] = {"ways": 5, settings.CHECKSUM: 8}
    settings.check_same(here, there, "a file")
    with pytest.raises(ValueError, match=settings.CHECKSUM):
        settings.check_same({**here, settings.CHECKSUM: 6}, here, "a file")
