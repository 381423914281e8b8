"""Ours against named baselines: speed and memory, measured side by side. Run ``python -m benchmarks``."""
