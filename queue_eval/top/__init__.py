"""The live view in a terminal: `queue-eval top`. Nothing else imports Textual.

It may import `views`, `campaign` and `driver`. Begin to read with `app`. One thread, `server_thread`, talks
to the server; the screens only show what it has read, and ask it for what people want done.
"""
