"""Messages and stubs that ``tools/generate_proto.py`` makes from ``proto/``."""
