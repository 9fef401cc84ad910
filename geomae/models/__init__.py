"""The masked autoencoder on plain tensors: usable without rasters, catalogue or tracking."""
