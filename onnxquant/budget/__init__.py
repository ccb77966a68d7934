"""The choice of formats under a bound: candidates with their costs, and the best combination of them.

It may import validation and every room below; report and the rooms above it may import it.
"""
