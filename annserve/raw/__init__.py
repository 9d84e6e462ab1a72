"""Raw rows: floats on pages of their own, for the few candidates that need a second, exact look.

What rests here: the page layout (``layout``), how pages are written (``pack``), and how rows on pages that were read
are taken and scored (``score``). The rows are the index's own, unrounded, or another encoder's vectors of the same
things. Absent on purpose: which rows deserve the look (``search.rerank``).
"""
