"""What a process serves: collections in versions that calls hold on to, in step with the disk, searched in turn.

``catalog`` has the versions, ``follow`` brings new ones, ``publish`` waits until every process has them; ``schedule``
says which search runs when; ``auditing`` and ``cache_watch`` look at what is served. Deliberately absent: gRPC.
"""
