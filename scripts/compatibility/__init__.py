"""Files that scripts/check_compatibility.py runs on other releases, and the tables of the results."""
