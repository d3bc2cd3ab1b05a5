"""A search that stops what is hopeless: 256 neural networks on handwritten digits, by successive halving.

Each training reports its accuracy after each epoch. After 3, 9 and 27 epochs it goes on only if it is among
the best third of those that have come as far. Kill it and run it again: it goes on where it was.

    python examples/early_stopping.py            # a minute or two on two cores
    python examples/early_stopping.py --all      # stops nothing, to compare: seven minutes
"""

import argparse
import os
import random

from queue_eval import Evaluator, current_job

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each training keeps to its own core
EPOCHS, RUNGS, ETA = 81, (3, 9, 27), 3


def train(config):
    """The run function: the best accuracy so far, of three networks tested on what they have not seen."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    images, digits = load_digits(return_X_y=True)  # 1,797 real scans of 8 x 8 pixels
    images /= 16
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(images, digits))
    networks = [
        MLPClassifier(
            hidden_layer_sizes=[config["width"]] * config["depth"],
            alpha=config["alpha"],
            learning_rate_init=config["learning_rate"],
            batch_size=config["batch_size"],
            random_state=0,
        )
        for _ in folds
    ]
    job, best = current_job(), 0.0
    for epoch in range(1, EPOCHS + 1):
        scores = []
        for network, (seen, unseen) in zip(networks, folds, strict=True):
            network.partial_fit(images[seen], digits[seen], classes=range(10))
            scores.append(network.score(images[unseen], digits[unseen]))
        accuracy = sum(scores) / len(scores)
        best = max(best, accuracy)
        job.report(epoch, accuracy=accuracy)
        if job.stop_requested == "stop":
            break
    return best


class SuccessiveHalving:
    """A callback: `on_report` is called in this script with each report of each job, while `gather` waits."""

    def __init__(self):
        self.rungs = {epoch: {} for epoch in RUNGS}  # at each: the accuracy of each job that has come so far

    def on_report(self, job, report):
        if report.step in self.rungs:
            rung = self.rungs[report.step]
            rung[job.id] = report.values["accuracy"]
            best_third = sorted(rung.values(), reverse=True)[: max(1, len(rung) // ETA)]
            if rung[job.id] < best_third[-1]:
                evaluator.stop([job])  # it sees this after its epoch, returns what it has, and succeeds


def sample(rng):
    return {
        "width": rng.choice([16, 32, 64, 128]),
        "depth": rng.choice([1, 2, 3]),
        "alpha": round(10 ** rng.uniform(-6, 0), 8),
        "learning_rate": round(10 ** rng.uniform(-4, -1), 8),
        "batch_size": rng.choice([32, 64, 128, 256]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=256, help="how many networks to try")
    parser.add_argument("--all", action="store_true", help="train each of them to its end")
    parser.add_argument("-n", "--num-workers", type=int, default=2, help="trainings at a time")
    options = parser.parse_args()

    rng = random.Random(0)  # the same configs in every run: a new run finds the results of the last one
    configs = [sample(rng) for _ in range(options.configs)]
    with Evaluator.create(
        train,
        method="process",
        method_kwargs={
            "num_workers": options.num_workers,
            "campaign": "early-stopping-all" if options.all else "early-stopping",
            "callbacks": [] if options.all else [SuccessiveHalving()],
        },
    ) as evaluator:
        evaluator.submit(configs)
        jobs = evaluator.gather("ALL")
        epochs = sum(len(job.reports) for job in jobs)
    config, accuracy = max(jobs, key=lambda job: (job.result, -job.id))
    print(f"best accuracy {accuracy:.4f} with {config}")
    print(f"{sum(job.stopped_early for job in jobs)} of {len(jobs)} trainings were stopped early")
    print(f"{epochs / (len(jobs) * EPOCHS):.0%} of all epochs were run")
