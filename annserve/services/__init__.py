"""The gRPC services: messages in, messages out. What they refuse, they refuse before any work.

``search_service``, ``recall_service`` and ``admin_service`` answer in each process that searches; ``manage_service``
answers what changes a server, in one process for all, and ``forward`` passes it on; ``health`` answers probes.
``convert``, ``job_convert`` and ``pages_of_lists`` carry between messages and arrays. Deliberately absent: arithmetic
on vectors, and files.
"""
