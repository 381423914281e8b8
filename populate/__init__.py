"""Everything that drives populate(): the command line, the demo, ingest and the report."""

import schemas  # noqa: F401  # quiets DataJoint's warning about settings, so it comes before DataJoint
