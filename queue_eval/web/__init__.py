"""The view in a browser, `queue-eval web`: a small web server beside the campaigns' server.

It may import all wings below the command line but `workers` and `chaos`. Starlette and uvicorn, an extra, are
imported nowhere else. Begin to read with `app`; `follow` says what looking costs.
"""
