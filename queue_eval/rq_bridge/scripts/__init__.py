"""The scripts of `queue_eval.rq_bridge.commands`: one file per move, run on RQ's Redis."""
