"""Rows into pages and postings: balanced clustering in the index space, where every metric is squared L2."""
