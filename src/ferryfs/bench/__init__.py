"""Measuring daemons side by side: what `ferryfs bench` does."""
