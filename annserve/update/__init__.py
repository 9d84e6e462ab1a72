"""From one version of an index to the next: rows that are added, segments that become one.

Every journey here builds a segment beside those that are read, and publishes a manifest that names it. The version
before it is whole until then, and whoever has it open keeps it.
"""
