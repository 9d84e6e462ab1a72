"""Texts of jobs over the small set."""

from __future__ import annotations


def job_text(*systems, loads="rounds = 2", datasets='[[datasets]]\nname = "small"\nmetric = "l2"', extra=""):
    """Write a job over the small set."""
    named = "\n".join(f'[[systems]]\npeer = "{name}"' for name in systems)
    return f"k = 10\nrecall_targets = [0.4, 0.9]\n{extra}\n[loads]\n{loads}\n{datasets}\n{named}\n"
