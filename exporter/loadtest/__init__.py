"""The load tester: offers a load to Ollama servers, measures what their users would feel, and judges it honestly.

Values and arithmetic (`scenario`, `arrivals`, `measure`, `verdict`) are pure; `wire` alone puts load on a server, `run`
alone decides when. Nothing here is shared with the fleet that the exporter watches.
"""
