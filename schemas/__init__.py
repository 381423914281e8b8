"""The DataJoint tables of Geniculate. Importing this package touches no server; importing a module of it connects."""

import warnings

# Without datajoint.json the embedded server is used; DataJoint warns of that when it is imported, wherever that is.
warnings.filterwarnings("ignore", message="No datajoint.json found", category=UserWarning)
