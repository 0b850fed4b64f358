"""A simulated world: the node's and the worker's own code under a scheduler and a virtual clock."""
