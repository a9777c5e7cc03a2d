"""Benchmarks: `bench_*.py` time the parts, `compare.py` does the same work by us and by other tools."""
