"""The DataJoint tables of Geniculate. Importing this package touches no server; importing a module of it connects."""

import warnings

# Without datajoint.json the embedded server is used; DataJoint warns of that at its import, whichever module comes first.
warnings.filterwarnings("ignore", message="No datajoint.json found", category=UserWarning)
