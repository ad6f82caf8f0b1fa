"""Where arrays live.

`mesh` builds the named device mesh, `rules` is the table from logical axes to
mesh axes, `placement` turns an abstract tree into shardings and a report.
"""
