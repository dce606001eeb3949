"""The conformance suites, one file a kind. Third parties import them from `surgery.testing`."""
