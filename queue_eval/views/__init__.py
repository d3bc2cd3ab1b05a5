"""What people look at: read from a campaign, summed up and put into words, without changing anything.

The commands, the terminal, the browser, notebooks and drivers' warnings all show what this wing reads, so
that they say the same. It knows no way of showing.
"""
