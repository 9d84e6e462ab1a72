"""What a build proves and tells: every page read back, recall of a sample, what was foretold beside what was found.

``verify`` and ``recall_sample`` look at an index alone, whoever built it; ``record`` and ``outcome`` become
``report.json``, and ``page`` draws it. Absent on purpose: anything that changes an index.
"""
