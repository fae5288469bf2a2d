"""Measurements, side by side in one run: what counts are the ratios, since machines differ and drift."""
