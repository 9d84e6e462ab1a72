"""From vectors to a published index: stage, pack, link, encode, calibrate, verify, publish.

``pipeline`` is the table of contents. Absent on purpose: byte offsets and kernels, which belong to the places.
"""
