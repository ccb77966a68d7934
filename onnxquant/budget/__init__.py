"""The choice of formats under a bound: candidates, what each costs, and the best combination.

It may import validation and every room below; report and the rooms above it may import it.
"""
