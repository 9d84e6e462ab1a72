"""What an index is to be, before any work: options, RAM that becomes codes, RAM and disk of the build, and a forecast.

``choose`` puts them together. Absent on purpose: rows; what is known of them is their number, dimension and type, and
what a file or an index of the same kind tells (``likeness``).
"""
