"""The embedded server of a home: start, stop, revive; its users, certificates and watcher.

Knows no campaign. Begin with `lifecycle`.
"""
