"""The best formats for a model under a bound: what each costs, and the choice."""
