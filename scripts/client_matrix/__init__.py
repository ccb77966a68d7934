"""Files, runners and tables of scripts/bench_clients.py."""
