"""Which layers the operations of a graph come from.

By Keras' own scopes that cannot be told: the second call of layer `dense` has
the name of the first of layer `dense_1`.
"""

import contextlib
import re

import keras
import tensorflow as tf

from keras_reptile import own_calls

_SCOPE = re.compile(r"layer_number_(\d+)_(?:_\d+)?")


@contextlib.contextmanager
def numbered(model: keras.Model):
    """Has every layer call its operations by its number, in this thread.

    Args:
        model: Of which a graph is made inside of the context. Where `lowered`
            layers are to be told apart, too, it is inside of that.
    """
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(_layers(model)):
            call = _within(f"layer_number_{number}_", own_calls.current(layer))
            stack.enter_context(own_calls.replaced(layer, call))
        yield


def layers_of(model: keras.Model, operations) -> list[str]:
    """Names of the layers that operations come from.

    Of layers in layers it is the outermost that is no model: the one that its
    user has put there.

    Args:
        model: As `numbered` had it.
        operations: Their names in a graph.
    """
    layers, found = _layers(model), set()
    for name in operations:
        scopes = map(_SCOPE.fullmatch, name.split("/")[:-1])
        numbers = [int(scope[1]) for scope in scopes if scope]
        own = [n for n in numbers if not isinstance(layers[n], keras.Model)]
        found.update((own or numbers)[:1])
    return [layers[number].name for number in sorted(found)]


def _layers(model):
    return list(model._flatten_layers(include_self=False))


def _within(scope, call):
    def within(*args, **kwargs):
        with tf.name_scope(scope):
            return call(*args, **kwargs)

    return within
