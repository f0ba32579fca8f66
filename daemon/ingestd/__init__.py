"""ingestd: drop files into a folder; a moment later they can be searched by meaning."""

__version__ = "0.1.0"
