"""Parts of ``check_transformers.py``: a tiny model in every layout, written here and read there, and the other way."""
