"""Measurements that back a claim: `python -m benchmarks.<name> --json FILE` runs one and writes what it found."""
