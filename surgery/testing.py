"""The conformance suites that adapters and formats are held to."""
