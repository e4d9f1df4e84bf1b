"""Judging generated code: benchmarks, verdicts, pass@k, and a gate that tells change from noise."""
