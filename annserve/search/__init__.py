"""From a query to its top-k: plan, navigate, select pages, read them in one batch, score them.

``engine`` is the table of contents. Absent on purpose: byte offsets, file names, and any page chosen after a
page was read.
"""
