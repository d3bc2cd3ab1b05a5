"""Runs forwarded attempts in RQ workers, and keeps the records about them on RQ's Redis.

Begin with `job`: RQ's workers call its `run`.
"""
