"""Simulated recordings with a known truth: dLGN populations that watch naturalistic movies."""

from __future__ import annotations

from pipeline.simulation.dlgn import GroundTruth, SimulationSettings, load_ground_truth, simulate_dlgn

__all__ = ["GroundTruth", "SimulationSettings", "load_ground_truth", "simulate_dlgn"]
