"""The science of Geniculate: recordings, datasets, models, training, analysis and MEIs. No database below this."""
