"""Heads: one centroid per posting, kept in RAM and joined in a navigation graph.

What rests here: the node layout (``layout``), how the graph is made (``graph``, ``connect``), how a query walks it
(``navigate``). Absent on purpose: which heads are worth a read (``search``), and where a head's rows lie.
"""
