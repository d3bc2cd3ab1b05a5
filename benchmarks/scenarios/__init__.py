"""One module for each scenario; each has a TITLE and a `measure`."""
