"""What durability costs on a machine: ``python -m benchmarks``. See README.md."""
