"""annserve for VectorDBBench."""
