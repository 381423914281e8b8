"""Everything that drives populate(): the command line, the demo, ingest and the report."""
