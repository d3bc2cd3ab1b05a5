"""The embedded server of a home: start, stop, revive; its users, certificates and watcher.

This wing knows no campaign. Begin with `lifecycle`.
"""
