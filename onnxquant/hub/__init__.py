"""The folder that model hubs expect: the variants of each model, their entries in config.json, and a table for the card.

It may import batch and every room below; only the command line is above it.
"""
