"""The DataJoint tables of Geniculate. Importing this package touches no server; importing a module of it connects."""
