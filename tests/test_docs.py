"""The figures in the documents are those of the files, and say what is said."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
from conftest import LOSS

import keras_reptile as kr

ROOT = pathlib.Path(__file__).parent.parent
README = " ".join((ROOT / "README.md").read_text().split())
CELLS = [
    (shots, mode)
    for shots in ("1-shot", "5-shot")
    for mode in ("inductive", "transductive")
]


def results(name):
    return json.loads((ROOT / "docs/results" / f"{name}.json").read_text())


def percent(score):
    return f"{100 * score['mean']:.2f} +- {100 * score['ci95']:.2f}"


@pytest.mark.parametrize(
    "name",
    [
        path.stem
        for pattern in ("o15-*", "o120*", "fast5-*")
        for path in sorted((ROOT / "docs/results").glob(f"{pattern}.json"))
    ],
)
def test_accuracies_of_omniglot_are_in_the_readme(name):
    scores = results(name)["scores"]
    row = " | ".join(percent(scores[shots][mode]) for shots, mode in CELLS)
    assert row in README


PAPER = {
    "o15-seed1": [95.39, 97.68, 98.90, 99.48],
    "o120-carry-seed1": [88.14, 89.43, 96.65, 97.12],
}


@pytest.mark.parametrize("name", PAPER)
def test_accuracies_of_omniglot_are_the_papers(name):
    """Nichol, Achiam & Schulman 2018, table 2; half a point is the goal.

    Of o15, seed 0 is 0.59 below at 1-shot; the README says so.
    """
    found = results(name)
    assert found["settings"]["eval_samples"] == 10_000
    scores = [100 * found["scores"][s][m]["mean"] for s, m in CELLS]
    np.testing.assert_allclose(scores, PAPER[name], rtol=0, atol=0.5)


def test_accuracies_of_algorithms_are_in_the_readme():
    speeds = results("algorithms-speed")
    for name, found in results("algorithms").items():
        if name in ("flags", "versions"):
            continue
        scores = found["scores"]
        row = [percent(scores[s][m]) for s, m in CELLS if s in scores]
        assert " | ".join(row) in README
        if "head" in " ".join(scores):
            head = [percent(scores[f"{s}, head"][m]) for s, m in CELLS]
            assert " | ".join(head) in README
        found = speeds.get(name, found)
        speed, memory = found["meta_iters_per_second"], found["peak_memory"]
        assert f"| {speed:.0f} | {memory / 1e9:.2f} GB |" in README


def test_the_sine_table_meets_its_bands():
    found = results("sine")
    for name in ("random", "joint", "maml", "reptile"):
        errors = found[name]["mse"].values()
        assert " | ".join(f"{error:.3f}" for error in errors) in README
    reptile, joint = found["reptile"], found["joint"]
    assert reptile["mse"]["32"] < min(0.3, 0.1 * joint["mse"]["32"])
    assert reptile["mean_absolute_output"] < 0.1


@pytest.mark.parametrize("name", ["step0.5", "short"])
def test_sums_of_gradients_are_in_the_papers_order(name):
    runs = results(f"gradient_combinations-{name}")["runs"]
    final = {run: found["final"] for run, found in runs.items()}
    assert final["g1"] < min(v for run, v in final.items() if run != "g1") - 0.3
    assert final["g1+g2"] < final["g2"]
    assert final["g1+g2"] < final["g1+g2+g3"] < final["g1+g2+g3+g4"]
    assert max(final, key=final.get) == "g1+g2+g3+g4"


def test_a_shared_tail_falls_where_examples_come_again():
    runs = results("overlap")["runs"]
    for method, has_share in (
        ("Reptile", True),
        ("FOMAML, separate tail", False),
        ("FOMAML, shared tail (cycling)", True),
        ("FOMAML, shared tail (replacement)", True),
    ):
        row = []
        for steps in (2, 4, 5, 6, 8):
            run = runs[f"{method}, {steps} steps of 25, outer 0.25"]
            share = f" ({100 * run['overlap']:.0f} %)" if has_share else ""
            row.append(f"{100 * run['final']:.1f}{share}")
        assert " | ".join(row) in README

    def final(method, steps):
        return runs[f"{method}, {steps} steps of 25, outer 0.25"]["final"]

    assert final("Reptile", 8) > final("Reptile", 4) - 0.01
    assert final("FOMAML, separate tail", 8) > 0.8
    shared = "FOMAML, shared tail (cycling)"
    assert final(shared, 5) < final(shared, 4) - 0.2
    full = [
        run["final"]
        for name, run in runs.items()
        if "4 steps of 100" in name and "shared tail" in name
    ]
    assert len(full) == 6 and max(full) < 0.62
    for tail in ("cycling", "replacement"):
        shared = final(f"FOMAML, shared tail ({tail})", 8)
        assert shared < final("FOMAML, separate tail", 8) - 0.1


def test_gradients_come_to_agree_but_under_joint_training():
    runs = results("agreement")["runs"]
    names = ["Reptile, 2 steps", "Reptile, 4 steps", "FOMAML, 4 steps"]
    starts = {run["start"]["gradient_cosine"] for run in runs.values()}
    assert len(starts) == 1  # The same weights and tasks.
    for measure in ("gradient_cosine", "gradient_transfer"):
        start = runs["joint training"]["start"][measure]
        # Late in training; and of characters that are not trained on.
        late = {
            name: (np.mean(run[measure][-5:]), run["held_out"][measure])
            for name, run in runs.items()
        }
        order = ["joint training", *names]
        for values in zip(*(late[name] for name in order)):
            assert values[0] < start < min(values[1:])
            assert list(values) == sorted(values)
    held_out = [runs[n]["held_out"]["gradient_cosine"] for n in order]
    cosines = (
        "cosines of {:.2f} under joint training, {:.2f} and {:.2f} under "
        "Reptile, and {:.2f}."
    )
    assert cosines.format(*held_out) in README


def test_coefficients_of_the_expansion_are_the_papers():
    found = results("theory")["batches"]
    for k in ("2", "3", "4"):
        for algorithm in ("maml", "fomaml", "reptile"):
            entry = found[k][algorithm]
            c0, c1 = entry["measured"][-1]
            assert f"{c0:.4f}, {c1:.4f}" in README
            assert [round(c0), round(c1)] == entry["paper"]


def block_of_the_readme(word):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (code,) = [block for block in blocks if word in block]
    return code


def test_the_groups_of_the_readme_run():
    person = np.repeat(np.arange(100), 8)
    letter = np.tile(list("abaabbab"), 100)
    x = np.random.default_rng(0).normal(size=(800, 2))
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, jit_compile=False)
    names = {"kr": kr, "model": model, "x": x, "person": person}
    names |= {"letter": letter, "x_new": x[:3], "letter_new": ["b", "a", "b"]}
    code = block_of_the_readme("from_groups")
    exec(code.replace("1_000", "3"), names)
    assert model.meta_step == 3
    assert names["people"].labels == ["a", "b"]
    assert names["personal"](x[:5]).shape == (5, 2)
    assert names["validation"].groups == list(range(80, 100))


def test_the_regression_of_the_readme_runs():
    code = block_of_the_readme("from_function")
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    model = kr.MetaModel(network)
    model.compile(loss="mse", jit_compile=False)
    names = {"kr": kr, "np": np, "model": model}
    exec(code.replace("1_000", "3").replace("=25", "=2"), names)
    assert model.meta_step == 3
    assert np.isfinite(model.history.history["val_loss"]).all()
