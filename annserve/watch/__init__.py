"""What is told of a running server: logs, metrics, traces, and a page to look at. Nothing here changes what it does."""
