"""The trainings that `trainers.algorithms` compares, each in its own settings.

Joint training and Reptile have the paper's (o15). So have Reptile of the head
alone, by which the rest keeps its first weights, and first-order MAML in the
original's form, with five shots more for its tail.

MAML, and first-order MAML by the query's gradient, have settings of their own.
Their meta-gradient is a gradient of the loss and not a way gone by weights, so
that it takes an outer Adam; they learn to do with few, large steps, so that the
inner loop is plain gradient descent of a large rate on the whole support set;
and they are trained on as many shots as they are asked for, so that there are
two of each. BUILD_NOTES.md has what was tried: first-order MAML likes more and
smaller steps, which cost it less than MAML.

Source: Nichol, Achiam & Schulman 2018, section 6; Finn, Abbeel & Levine 2017,
arXiv:1703.03400; Raghu et al. 2020, arXiv:1909.09157.
"""

import dataclasses

import keras

import keras_reptile as kr

TASKS = 5
# Of algorithms whose meta-gradient is the query loss's: inner steps, their
# rate, and what else goes with them.
INNER_STEPS = {
    "fomaml": (5, 0.1),
    "fomaml_shared_tail": (5, 0.1),
    "maml": (3, 0.2),
}
OUTER_RATE = 5e-3
EVAL_STEPS = 10
_SUM = {"inner_reduction": "sum"}


@dataclasses.dataclass(frozen=True)
class Training:
    """One way to meta-train, and how what it learned is adapted.

    `scored` are, by label, the shots and the variables adapted at evaluation.
    """

    algorithm: str
    spec: kr.EpisodeSpec
    outer: tuple  # The optimizer's name and its first learning rate.
    inner: keras.optimizers.Optimizer
    scored: dict
    eval_steps: int = 50
    eval_batch: int | None = 5
    settings: dict = dataclasses.field(default_factory=dict)


def trainings() -> dict[str, Training]:
    """All of them by name."""
    adam = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.999, epsilon=1e-8)
    paper = kr.EpisodeSpec(5, 10, 0, inner_steps=5, inner_batch_size=10)
    tail = kr.EpisodeSpec(5, 10, 5, inner_steps=4, inner_batch_size=10)
    both = {"1-shot": (1, None), "5-shot": (5, None)}
    head = {"1-shot, head": (1, "head"), "5-shot, head": (5, "head")}
    found = {
        "joint": Training("joint", paper, ("SGD", 1.0), adam, both),
        "reptile": Training(
            "reptile", paper, ("SGD", 1.0), adam, {**both, **head}
        ),
        "reptile_head": Training(
            *("reptile", paper, ("SGD", 1.0), adam, both),
            settings={"inner_variables": "head"},
        ),
        "foml_tail": Training("foml_tail", tail, ("SGD", 1.0), adam, both),
    }
    found = {
        name: dataclasses.replace(training, settings=training.settings | _SUM)
        for name, training in found.items()
    }
    for algorithm in ("fomaml", "maml"):
        steps, rate = INNER_STEPS[algorithm]
        for shots in (1, 5):
            found[f"{algorithm}_{shots}shot"] = Training(
                algorithm,
                kr.EpisodeSpec(5, shots, 10, inner_steps=steps),
                ("Adam", OUTER_RATE),
                keras.optimizers.SGD(rate),
                {f"{shots}-shot": (shots, None)},
                eval_steps=EVAL_STEPS,
                eval_batch=None,
            )
    return found


def build_model(training: Training, meta_iters: int, seed: int) -> kr.MetaModel:
    """The paper's network and both optimizers, compiled.

    Args:
        training: One of `trainings()`.
        meta_iters: Meta-iterations after which the outer rate is 0.
        seed: Of the initial weights.
    """
    keras.utils.set_random_seed(seed)
    model = kr.MetaModel(kr.models.omniglot_cnn(5), training.algorithm)
    name, rate = training.outer
    schedule = kr.schedules.linear(rate, 0.0, meta_iters)
    model.compile(
        optimizer=getattr(keras.optimizers, name)(schedule),
        inner_optimizer=training.inner,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **training.settings,
    )
    return model


def protocols(training: Training, num_episodes: int, seed: int) -> dict:
    """How a training is scored, in both modes, by label."""
    return {
        label: _protocol(training, shots, adapted, num_episodes, seed)
        for label, (shots, adapted) in training.scored.items()
    }


def _protocol(training, shots, inner_variables, num_episodes, seed):
    return kr.Protocol(
        ways=5,
        shots=shots,
        inner_steps=training.eval_steps,
        inner_batch_size=training.eval_batch,
        num_episodes=num_episodes,
        seed=seed,
        inner_variables=inner_variables,
    )
