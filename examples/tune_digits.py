"""A hyperparameter search that survives anything: tune a neural network on handwritten digits.

Run it; kill it at any moment (Ctrl-C, kill -9, power cut); run it again: it goes on where it was, and
evaluates nothing twice.

    python examples/tune_digits.py
"""

import argparse
import os
import random

from tqdm import tqdm

from queue_eval import Evaluator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each evaluation keeps to its own core
ROUNDS, PER_ROUND = 5, 12


def accuracy(config):
    """The run function: it gets a config, and returns what is to be maximised. It runs in a worker."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, digits = load_digits(return_X_y=True)  # 1,797 real scans of 8 x 8 pixels
    network = MLPClassifier(
        hidden_layer_sizes=[config["width"]] * config["depth"],
        alpha=config["alpha"],
        learning_rate_init=config["learning_rate"],
        batch_size=config["batch_size"],
        max_iter=40,
        early_stopping=True,
        random_state=0,
    )
    return cross_val_score(make_pipeline(StandardScaler(), network), images, digits, cv=3).mean()


def sample(rng):
    return {
        "width": rng.choice([16, 32, 64, 128]),
        "depth": rng.choice([1, 2, 3]),
        "alpha": round(10 ** rng.uniform(-6, 0), 8),
        "learning_rate": round(10 ** rng.uniform(-4, -1), 8),
        "batch_size": rng.choice([32, 64, 128, 256]),
    }


def near(config, rng):
    """A neighbour: one or two hyperparameters drawn anew."""
    fresh = sample(rng)
    return config | {name: fresh[name] for name in rng.sample(sorted(fresh), rng.choice([1, 2]))}


def search(evaluator):
    """Search: the first round is drawn at random, each later one around the best so far."""
    rng = random.Random(0)  # the same configs in every run: a new run finds the results of the last one
    best, score = None, None
    with tqdm(total=ROUNDS * PER_ROUND, desc="evaluations", unit="") as bar:
        for _ in range(ROUNDS):
            jobs = evaluator.submit([near(best, rng) if best else sample(rng) for _ in range(PER_ROUND)])
            for _ in evaluator.as_completed():
                bar.update(len(evaluator.jobs_done) - bar.n)
                evaluator.dump_evals()
            # Only this round's own jobs decide, not others that have finished: so every run is the same.
            leader = max(jobs, key=lambda job: (job.result, -job.id))
            if best is None or leader.result > score:
                (best, score) = leader
            bar.set_postfix(best=f"{score:.4f}")
    return best, score


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="process", help="thread, process, subprocess, ray or rq")
    parser.add_argument("-n", "--num-workers", type=int, default=2, help="evaluations at a time")
    parser.add_argument("--campaign", default="tune-digits", help="another name starts a new search")
    options = parser.parse_args()

    with Evaluator.create(
        accuracy,
        method=options.method,
        method_kwargs={"num_workers": options.num_workers, "campaign": options.campaign},
    ) as evaluator:
        best, score = search(evaluator)
    print(f"best accuracy {score:.4f} with {best}; all evaluations are in results.csv")
