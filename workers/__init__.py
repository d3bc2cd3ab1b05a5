"""The worker runtime: a long-running parent that leases, runs and settles jobs, and never runs user code.

Nothing in `queue_eval` imports this package but the command line's `worker` command, and the processes
that run user code never do: a user's own package named `workers` keeps working beside it.
"""
