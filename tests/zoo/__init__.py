"""Generated networks and the habits of exporters.

``zoo.catalogue`` names the models and builds them; ``zoo.net`` is the builder that networks use.
"""
