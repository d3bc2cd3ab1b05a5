"""What runs inside an RQ fleet, and what is kept about forwarded attempts on RQ's Redis.

Begin with `job`: RQ's workers call its `run`.
"""
