"""How a run function travels: named or pickled by the driver, signed, allowed, and loaded where it runs.

Knows neither servers nor processes. Begin with `reference` (the driver's end) and `loading` (the other end).
"""
