"""Runs user code: the child process, its pipe, one execution, its environment and leftovers.

This wing knows no server. Each child imports it, so it imports next to nothing. Begin with `child`, then
`execution`.
"""
