"""Tuning: what a plan rounds is learned from samples without labels, with the float model as the teacher.

A planned model becomes a torch module that rounds where the file will, on the same grids. Weights, steps, ranges and biases
are its parameters. What was learned goes back into the plan as codes that are chosen already. It may import graphs as torch
modules, formats and plans, and neither the way of a model to its file nor reports.
"""
