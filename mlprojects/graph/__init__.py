"""A graph network of the series of a universe: a GRU over PyTorch Geometric's convolutions."""
