"""Pruning: weights that become zero, and channels that leave the graph.

``amounts`` says how much, ``masks`` which weights of a matrix, ``zeros`` which formats keep zeros; ``channels`` follows
channels through a graph by their ``labels`` and ``operators``, and ``removal`` takes them out. ``records`` has what files and
reports say of it. It may import the rooms below; plans, the way of a model to its file and reports import it.
"""
