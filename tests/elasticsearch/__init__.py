"""Tests against real Elasticsearch nodes; `python -m tests.elasticsearch` starts one by hand."""
