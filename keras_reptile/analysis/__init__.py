"""The paper's theory as instruments, for any Keras model and its episodes.

Source: Nichol, Achiam & Schulman 2018, section 5.1: what the meta-gradients
of MAML, FOMAML and Reptile are to leading order in the inner rate.
"""

from keras_reptile.analysis.agreement import Agreement, gradient_agreement
from keras_reptile.analysis.expansion import (
    Terms,
    coefficients,
    estimate_terms,
    fit_coefficients,
    leading_order,
    predict,
)
from keras_reptile.analysis.meta_gradients import (
    hessian_vector_product,
    measure_meta_gradients,
    meta_gradients,
)
from keras_reptile.analysis.overlap import batch_overlap

__all__ = [
    "Agreement",
    "Terms",
    "batch_overlap",
    "coefficients",
    "estimate_terms",
    "fit_coefficients",
    "gradient_agreement",
    "hessian_vector_product",
    "leading_order",
    "measure_meta_gradients",
    "meta_gradients",
    "predict",
]
