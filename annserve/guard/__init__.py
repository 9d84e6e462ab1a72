"""Who may come in: where a server listens, how a connection is encrypted, whose key allows what.

Deliberately absent: users and passwords. A key is a random secret of which only a hash is kept.
"""
