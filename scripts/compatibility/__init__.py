"""What scripts/check_compatibility.py runs on other releases, and the tables it makes of it."""
