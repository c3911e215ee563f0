"""What really happens on an Ollama server, written down without the exporter, and what the exporter says held against
it. All times are CLOCK_MONOTONIC's seconds, which are the same for every process of a machine."""
