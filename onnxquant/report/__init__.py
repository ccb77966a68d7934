"""The report of a run: its data, its verdict, and its terminal, HTML, Markdown and JSON forms.

It may import budget, activations and the rooms below; convert and the rooms above it may import it.
"""
