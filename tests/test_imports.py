"""Imports run one way, so that a module can be read without the rest."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_reptile"
# From the core outwards: a module imports only from those before its own.
ORDER = [
    {"own_calls"},
    {
        "array_input",
        "bfloat16_products",
        "descriptions",
        "exact_moments",
        "integers",
        "layer_scopes",
        "lowered_norm",
        "model_call",
        "random_keys",
    },
    {
        "callback_checks",
        "clock",
        "distribution",
        "epoch_checks",
        "episodes",
        "files",
        "held_out",
        "inner_variables",
        "intervals",
        "keras_under_strategies",
        "lanes",
        "losses",
        "lowered_ops",
        "models",
        "monitors",
        "own_words",
        "nonfinite_tasks",
        "preemption",
        "refused_calls",
        "run_record",
        "schedules",
        "seeds",
        "scores",
        "slot_decay",
        "stateless",
        "workers",
    },
    {
        "accumulated_slots",
        "checkpoint_file",
        "lowering",
        "metrics",
        "protocol",
        "scalars",
        "settings",
    },
    {"fixed_labels", "shapes"},
    {"asking_xla", "inner_step", "loss_checks", "tokens"},
    {"learner", "data", "checks", "fit_warnings", "worker_checks"},
    {"second_order"},
    {
        "algorithm_results",
        "algorithms",
        "fit_checks",
        "layer_state",
    },
    {"analysis", "compiling", "meta_update", "resuming", "saving"},
    {"task_loops", "fitting", "personal"},
    {"task_running"},
    {"configuring"},
    {"meta_model", "evaluation", "checkpoints"},
    {"measurements", "run_folder"},
    {"run"},
    {"callbacks"},
]


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_imports_run_one_way():
    place = {name: i for i, names in enumerate(ORDER) for name in names}
    seen = set()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        seen.add(own)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = node.module or ""
            assert not module.startswith("trainers")
            if not module.startswith("keras_reptile"):
                continue
            names = (
                [room(module)] if room(module) else [a.name for a in node.names]
            )
            for name in names:
                assert name == own or place[name] < place[own], (path, name)
    assert seen == set(place)
