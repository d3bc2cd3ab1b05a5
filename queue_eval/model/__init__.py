"""Plain data, and how it is written: states, jobs, attempts, what the moves take and give, JSON, table cells.

It imports only the standard library and `queue_eval.errors`. Begin with `states` and `job`.
"""
