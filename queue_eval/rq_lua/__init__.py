"""The scripts of `queue_eval.rq_moves`: one file per move, run on RQ's Redis."""
