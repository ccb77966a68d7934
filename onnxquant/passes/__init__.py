"""Passes: graph to graph, float outputs unchanged. The order in which they run is in pipeline.py."""
