"""One immutable version of an index on disk: names, manifest, publishing, opening, checking.

What rests here: which files make an index, and the proof that they are the ones that were published. Absent on
purpose: how an index is made (``build``) and how it is searched (``search``).
"""
