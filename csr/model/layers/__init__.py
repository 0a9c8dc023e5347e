"""The parts of the network, one nn.Module each; plain keyword arguments, no config, rank or path."""
