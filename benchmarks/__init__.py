"""What the exporter costs, beside what the usual libraries cost on the same data in the same run. See README.md."""
