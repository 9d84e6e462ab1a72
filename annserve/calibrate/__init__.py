"""From held-out rows to a plan: how much effort each recall target takes, whatever way pages are chosen.

``plan`` says which way is whose. Absent on purpose: queries of a user, but for a sample that was given to be learned
from.
"""
