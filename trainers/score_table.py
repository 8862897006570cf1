"""The accuracies of a training: printed, in its results, in TensorBoard."""

from trainers import common, results_file, tensorboard_log


def log(scores, logdir, meta_iters) -> None:
    """Adds the final accuracies to what TensorBoard shows."""
    by_name = {
        f"test_accuracy/{shots}-shot_{mode}": score.mean
        for shots, modes in scores.items()
        for mode, score in modes.items()
    }
    tensorboard_log.write(f"{logdir}/test", {meta_iters: by_name})


def report(
    title, scores, logdir, settings, training_seconds, evaluation_seconds
):
    """Prints the table and writes it beside the checkpoints."""
    rows = [
        [f"{shots}-shot", mode, common.percent(score), score.num_episodes]
        for shots, modes in scores.items()
        for mode, score in sorted(modes.items())
    ]
    common.print_table(
        f"{title}, {settings['classes']}-way, after "
        f"{settings['meta_iters']} meta-iterations: accuracy in percent",
        ["shots", "mode", "mean +- 95 % interval", "episodes"],
        rows,
    )
    common.say(
        f"Training took {training_seconds:.0f} s, evaluation "
        f"{evaluation_seconds:.0f} s."
    )
    path = results_file.write(
        logdir,
        {
            "settings": settings,
            "training_seconds": training_seconds,
            "evaluation_seconds": evaluation_seconds,
            "scores": {
                f"{shots}-shot": {
                    mode: results_file.summary(score)
                    for mode, score in modes.items()
                }
                for shots, modes in scores.items()
            },
        },
    )
    common.say(f"Results: {path}. Watch with: tensorboard --logdir {logdir}")
