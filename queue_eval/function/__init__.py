"""Makes a run function travel: the driver names or pickles it and signs it; a worker checks and loads it.

Knows neither servers nor processes. Begin with `reference` (the driver's end) and `loading` (the other end).
"""
