"""Where user code runs: the child process, its pipe, one execution, its surroundings and leftovers.

Knows no server, and is imported by each child, so it imports next to nothing. Begin with `child`, then
`execution`.
"""
