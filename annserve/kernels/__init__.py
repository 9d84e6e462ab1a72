"""Ground for every kernel: the one decorator, and the distances and heaps that several rooms need."""
